// The gradient of max-pooling over windows that do not overlap, for the CPU.
//
// XLA writes it as a choice over views, one per element of the window, and puts these together
// again: it goes through the image about ten times, this once. image [B, D, H, W, C], result of the
// pooling and its gradient smaller by the window, float32 or bfloat16, C a multiple of 8.

#include "common.h"

namespace {

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error PoolGradient(ffi::ThreadPool pool, Array image, Array pooled, Array gradient,
                        ffi::Result<Array> image_gradient) {
  const auto d = OfVolume(image.dimensions()), p = OfVolume(pooled.dimensions());
  const int64_t channels = d[4], row = d[3] * channels, plane = d[2] * row;
  const int64_t planes = d[1] / p[1], rows = d[2] / p[2], columns = d[3] / p[3];  // of a window
  const auto *x = image.typed_data(), *y = pooled.typed_data(), *dy = gradient.typed_data();
  auto* dx = image_gradient->typed_data();
  Parallel(pool, p[0] * p[1] * p[2], [&](int part) {
    const int64_t corner = part / p[2] * planes * plane + part % p[2] * rows * row;
    for (int64_t column = 0; column < p[3]; ++column)
      ForChannels(channels, [&]<int N, int R>(int64_t c) {
        for (int r = 0; r < R; ++r, c += N) {
          const int64_t from = (part * p[3] + column) * channels + c;
          const V<N> largest = At<N>(y + from);
          V<N> left = At<N>(dy + from);  // for the first that is the largest
          for (int64_t i = 0; i < planes; ++i)
            for (int64_t j = 0; j < rows; ++j)
              for (int64_t k = 0; k < columns; ++k) {
                const int64_t at =
                    corner + i * plane + j * row + (column * columns + k) * channels + c;
                const auto found = At<N>(x + at) == largest;
                Put<N>(dx + at, found ? left : V<N>{});
                left = found ? V<N>{} : left;
              }
        }
      });
  });
  return ffi::Error::Success();
}

template <typename Number>
auto BindPool() {
  return Arrays<1, Number::kType, Number::kType, Number::kType, Number::kType>(BindToPool());
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegPoolGradient, PoolGradient<Float32>, BindPool<Float32>());
#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegPoolGradientBfloat16, PoolGradient<Bfloat16>,
                              BindPool<Bfloat16>());
#endif
