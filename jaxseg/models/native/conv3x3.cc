// The convolution with 3x3 or 3x3x3 pixels, stride 1, zero padding, and the gradient of its image.
//
// XLA's own runs well below the machine's rate where channels are few, and in volumes at a fifth or
// less. The loops here keep a block of the result in registers and read images and kernels where
// they lie: image [B, D, H, W, C], kernel [K, 3, 3, C, O] of K = 1 or 3 planes, result
// [B, D, H, W, O], float32 or bfloat16 with sums in float32, O a multiple of 8. An image is a volume
// of one plane. Of bfloat16 two channels make a unit. Compiled on first use and called by XLA
// (see __init__.py).

#include <cmath>

#include "box.h"
#include "kernels.h"
#include "sums.h"

namespace {

// Where the image lies for each tap of the kernel.
struct Taps {
  const float* at[27];
  int count;
};

// A copy of the image around a box, in units, with zeros outside the image.
struct Padded {
  const Box box;
  const int64_t halo, row, high;  // planes before the box, units of a row, rows of a plane
  std::unique_ptr<float[]> data;

  template <typename Stored>
  Padded(const Stored* x, int64_t channels, const Box& box, const Shape& s)
      : box(box), halo(s.planes / 2), row((s.width + 2) * s.in), high(box.y_end - box.y + 2),
        data(std::make_unique_for_overwrite<float[]>((box.z_end - box.z + 2 * halo) * high * row)) {
    const size_t pixel = channels * sizeof(Stored);
    float* to = data.get();
    for (int64_t z = box.z - halo; z < box.z_end + halo; ++z)
      for (int64_t y = box.y - 1; y < box.y_end + 1; ++y, to += row) {
        const bool inside = z >= 0 && z < s.depth && y >= 0 && y < s.height;
        const Stored* from = x + ((box.b * s.depth + z) * s.height + y) * s.width * channels;
        if (inside && pixel == s.in * sizeof(float)) {
          std::fill_n(to, s.in, 0.0f);
          std::memcpy(to + s.in, from, s.width * pixel);
          std::fill_n(to + row - s.in, s.in, 0.0f);
          continue;
        }
        std::fill_n(to, row, 0.0f);
        for (int64_t p = 0; inside && p < s.width; ++p)  // whose last unit is not full
          std::memcpy(to + (p + 1) * s.in, from + p * channels, pixel);
      }
  }

  // The pixels around the first of row y of plane z, for the kernel's planes from..to.
  Taps Around(int64_t z, int64_t y, int from, int to, const Shape& s) const {
    Taps taps{{}, 9 * (to - from)};
    for (int i = 0; i < taps.count; ++i)
      taps.at[i] = &data[((z - box.z + from + i / 9) * high + y - box.y + i / 3 % 3) * row + i % 3 * s.in];
    return taps;
  }
};

// Boxes whose padded copies stay in the cache while all outputs are computed; of images, as high
// as one another, and with a few images enough of them that every thread has its share, but not so
// low that most of a box is copied twice.
Cut CutForConvolution(const Shape& s, int64_t blocks) {
  constexpr int64_t kHigh = 8;
  const int64_t rows = (s.planes == 1 ? 1 : 2) * kNear / ((s.width + 2) * s.in);
  if (s.planes == 1) {
    const int64_t fit = std::clamp<int64_t>(rows - 2, 1, s.height);
    const int64_t shared = std::min(kParts / (s.batch * blocks), (s.height + kHigh - 1) / kHigh);
    const int64_t strips = std::max((s.height + fit - 1) / fit, shared);
    return Cut(1, (s.height + strips - 1) / strips, s);
  }
  const int64_t side = std::sqrt(rows);  // as deep as high: the least to copy
  const int64_t planes = std::clamp<int64_t>(side - 2, 1, s.depth);
  return Cut(planes, std::clamp<int64_t>(rows / (planes + 2) - 2, 1, s.height), s);
}

// Images of so many channels with a kernel [K, 3, 3, C, O], both C in units.
template <typename Number>
void ConvolveImages(ffi::ThreadPool& pool, const typename Number::Stored* x, int64_t channels,
                    const float* w, typename Number::Stored* y, const Shape& s) {
  const int64_t blocks = (s.out + 2 * kLanes - 1) / (2 * kLanes);
  const Cut cut = CutForConvolution(s, blocks);
  const int64_t boxes = cut.count(s);
  const int64_t groups = std::min((kParts + boxes - 1) / boxes, blocks);  // of outputs: small images
  Parallel(pool, boxes * groups, [&](int part) {
    const Padded padded(x, channels, cut.box(part / groups, s), s);
    const Box& box = padded.box;
    const int64_t from = blocks * (part % groups) / groups * 2 * kLanes;
    const int64_t to = std::min(blocks * (part % groups + 1) / groups * 2 * kLanes, s.out);
    ForChannels(to - from, [&]<int N, int R>(int64_t offset) {
      const int64_t o = from + offset;
      for (int64_t z = box.z; z < box.z_end; ++z) {
        // Planes outside the image are left out.
        const int first = s.planes == 3 && z == 0, last = s.planes - (s.planes == 3 && z == s.depth - 1);
        for (int64_t r = box.y; r < box.y_end; ++r) {
          auto* row = y + ((box.b * s.depth + z) * s.height + r) * s.width * s.out;
          const float* kernel = w + first * 9 * s.in * s.out;
          const Taps taps = padded.Around(z, r, first, last, s);
          // Images keep their rounding, which differs between blocks.
          SumRow<Number, N, R>({taps.at, taps.count, s.in, s.in, kernel + o, nullptr, s.out, row + o,
                                s.out}, s.width, s.planes > 1);
        }
      }
    });
  });
}

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error Convolve(ffi::ThreadPool pool, Array image, Array kernel, ffi::Result<Array> result) {
  auto k = kernel.dimensions();
  const int64_t channels = k[k.size() - 2], units = (channels - 1) / Number::kInUnit + 1;
  const Shape s = ShapeOf(image.dimensions(), k, units, k.back());
  const InUnits<Number> w(pool, kernel.typed_data(), 9 * s.planes, channels, s.out);
  ConvolveImages<Number>(pool, image.typed_data(), channels, w.data, result->typed_data(), s);
  return ffi::Error::Success();
}

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error ImageGradient(ffi::ThreadPool pool, Array gradient, Array kernel,
                         ffi::Result<Array> result) {
  auto k = kernel.dimensions();  // of whole units: its outputs are a multiple of 8
  const Shape s = ShapeOf(gradient.dimensions(), k, k.back() / Number::kInUnit, k[k.size() - 2]);
  const auto* units = static_cast<const float*>(kernel.untyped_data());
  const std::vector<float> mirrored = Transposed(pool, units, 9 * s.planes, s.out, s.in, true);
  ConvolveImages<Number>(pool, gradient.typed_data(), k.back(), mirrored.data(),
                         result->typed_data(), s);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegConvolve, Convolve<Float32>, BindConvolution<Float32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegImageGradient, ImageGradient<Float32>, BindConvolution<Float32>());
#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegConvolveBfloat16, Convolve<Bfloat16>, BindConvolution<Bfloat16>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegImageGradientBfloat16, ImageGradient<Bfloat16>,
                              BindConvolution<Bfloat16>());
#endif
