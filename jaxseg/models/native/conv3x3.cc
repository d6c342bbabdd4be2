// The 3x3 convolution of images, stride 1, zero padding, and its kernel gradient, for the CPU.
//
// XLA's own kernel gradient runs at a third to a half of the machine's rate where channels are
// few and images large. Both loops here keep a block of the result in registers and read images
// and kernels where they lie: image [B, H, W, C], kernel [3, 3, C, O], result [B, H, W, O],
// float32, O a multiple of 8. Compiled on first use and called by XLA (see __init__.py).

#include "common.h"

namespace {

constexpr int kPixels = 8;    // of the result at once: 8 x 2 registers
constexpr int kChannels = 8;  // of the kernel gradient at once

struct Shape {
  int64_t batch, height, width, in, out;
};

// result[p, :] = sum over taps and channels of rows[i][p + j, c] * kernel[i, j, c, :]
// for P neighbouring pixels and R registers of outputs; rows are padded by one pixel.
template <int N, int P, int R>
void ConvolvePixels(const float* const rows[3], const float* kernel, float* result, const Shape& s) {
  V<N> sum[P][R] = {};
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      const float* x = rows[i] + j * s.in;
      const float* w = kernel + (i * 3 + j) * s.in * s.out;
      for (int64_t c = 0; c < s.in; ++c, w += s.out) {
        V<N> k[R];
        for (int r = 0; r < R; ++r) k[r] = At<N>(w + r * N);
        for (int p = 0; p < P; ++p) {
          const float value = x[p * s.in + c];
          for (int r = 0; r < R; ++r) sum[p][r] += value * k[r];
        }
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) Put<N>(result + p * s.out + r * N, sum[p][r]);
}

template <int N, int R>
void ConvolveRow(const float* const rows[3], const float* kernel, float* result, const Shape& s) {
  int64_t x = 0;
  const float* at[3];
  for (; x + kPixels <= s.width; x += kPixels) {
    for (int i = 0; i < 3; ++i) at[i] = rows[i] + x * s.in;
    ConvolvePixels<N, kPixels, R>(at, kernel, result + x * s.out, s);
  }
  for (; x < s.width; ++x) {
    for (int i = 0; i < 3; ++i) at[i] = rows[i] + x * s.in;
    ConvolvePixels<N, 1, R>(at, kernel, result + x * s.out, s);
  }
}

// Returns the kernel of the image's gradient: mirrored, with inputs and outputs exchanged.
std::vector<float> Transposed(ffi::ThreadPool& pool, const float* kernel, int64_t in, int64_t out) {
  constexpr int64_t kTile = 16;
  std::vector<float> made(9 * in * out);
  Parallel(pool, 9, [&](int tap) {
    const float* from = kernel + (8 - tap) * in * out;  // [in, out]
    float* to = made.data() + tap * in * out;           // [out, in]
    for (int64_t o = 0; o < out; o += kTile)
      for (int64_t c = 0; c < in; c += kTile)
        for (int64_t k = o; k < std::min(o + kTile, out); ++k)
          for (int64_t l = c; l < std::min(c + kTile, in); ++l) to[k * in + l] = from[l * out + k];
  });
  return made;
}

void ConvolveImages(ffi::ThreadPool& pool, const float* x, const float* w, float* y, const Shape& s) {
  // Bands of rows: their padded copy stays in the cache while all outputs are computed.
  const int64_t row = (s.width + 2) * s.in;
  const int64_t band = std::clamp<int64_t>(65536 / row - 2, 1, s.height);
  const int64_t bands = (s.height + band - 1) / band;
  Parallel(pool, s.batch * bands, [&](int part) {
    const int64_t b = part / bands, first = part % bands * band;
    const int64_t last = std::min(first + band, s.height);
    std::vector<float> padded((last - first + 2) * row);  // zeros
    for (int64_t r = std::max<int64_t>(first - 1, 0); r < std::min(last + 1, s.height); ++r)
      std::memcpy(&padded[(r - first + 1) * row + s.in], x + (b * s.height + r) * s.width * s.in,
                  s.width * s.in * sizeof(float));
    ForChannels(s.out, [&]<int N, int R>(int64_t o) {
      for (int64_t r = first; r < last; ++r) {
        const float* top = &padded[(r - first) * row];
        const float* rows[3] = {top, top + row, top + 2 * row};
        ConvolveRow<N, R>(rows, w + o, y + (b * s.height + r) * s.width * s.out + o, s);
      }
    });
  });
}

ffi::Error Convolve(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> image, ffi::Buffer<ffi::F32> kernel,
                    ffi::Result<ffi::Buffer<ffi::F32>> result) {
  auto d = image.dimensions();
  const Shape s{d[0], d[1], d[2], d[3], kernel.dimensions()[3]};
  ConvolveImages(pool, image.typed_data(), kernel.typed_data(), result->typed_data(), s);
  return ffi::Error::Success();
}

ffi::Error ImageGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> gradient,
                         ffi::Buffer<ffi::F32> kernel, ffi::Result<ffi::Buffer<ffi::F32>> result) {
  auto d = gradient.dimensions();
  const Shape s{d[0], d[1], d[2], d[3], kernel.dimensions()[2]};
  const std::vector<float> mirrored = Transposed(pool, kernel.typed_data(), s.out, s.in);
  ConvolveImages(pool, gradient.typed_data(), mirrored.data(), result->typed_data(), s);
  return ffi::Error::Success();
}

// Pixels of images: channel c, a multiple of the block's size, of pixel p is at
// data + p * pixel + c * channel.
struct View {
  const float* data;
  int64_t pixel, channel;
  const float* at(int64_t p, int64_t c) const { return data + p * pixel + c * channel; }
};

// Returns pixels [P, C] as [C / block, P, block].
std::vector<float> Blocked(ffi::ThreadPool& pool, const float* x, int64_t pixels, int64_t channels,
                           int64_t block) {
  std::vector<float> made(pixels * channels);
  Parallel(pool, channels / block, [&](int part) {
    for (int64_t p = 0; p < pixels; ++p)
      std::memcpy(&made[(part * pixels + p) * block], x + p * channels + part * block,
                  block * sizeof(float));
  });
  return made;
}

// sum[c, :] += image[p, c] * gradient[p, :] over n pixels of each of some rows, for K channels.
template <int N, int K, int R>
void AddPixels(const View& image, const View& gradient, int64_t p, int64_t q, int64_t c, int64_t o,
               int64_t rows, int64_t n, float* sum, const Shape& s) {
  V<N> acc[K][R];
  for (int c = 0; c < K; ++c)
    for (int r = 0; r < R; ++r) acc[c][r] = At<N>(sum + c * s.out + r * N);
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = image.at(p + row * s.width, c);
    const float* g = gradient.at(q + row * s.width, o);
    for (int64_t i = 0; i < n; ++i, x += image.pixel, g += gradient.pixel) {
      V<N> k[R];
      for (int r = 0; r < R; ++r) k[r] = At<N>(g + r * N);
      for (int c = 0; c < K; ++c)
        for (int r = 0; r < R; ++r) acc[c][r] += x[c] * k[r];
    }
  }
  for (int c = 0; c < K; ++c)
    for (int r = 0; r < R; ++r) Put<N>(sum + c * s.out + r * N, acc[c][r]);
}

// Adds the rows first..last of image b to channels from..to of sum [3, 3, C, O].
void AddRows(const View& x, const View& g, float* sum, int64_t b, int64_t first, int64_t last,
             int64_t from, int64_t to, const Shape& s) {
  ForChannels(s.out, [&]<int N, int R>(int64_t o) {
    for (int i = 0; i < 3; ++i) {
      const int64_t top = std::max<int64_t>(first, 1 - i);
      const int64_t bottom = std::min(last, s.height + 1 - i);
      for (int j = 0; j < 3; ++j) {
        const int64_t left = std::max(1 - j, 0), n = s.width - (j != 1);
        const int64_t q = (b * s.height + top) * s.width + left;
        const int64_t p = q + (i - 1) * s.width + j - 1;
        const auto add = [&]<int K>(int64_t c) {
          float* at = sum + ((i * 3 + j) * s.in + c) * s.out + o;
          AddPixels<N, K, R>(x, g, p, q, c, o, bottom - top, n, at, s);
        };
        int64_t c = from;
        for (; c + kChannels <= to; c += kChannels) add.template operator()<kChannels>(c);
        for (; c + 3 <= to; c += 3) add.template operator()<3>(c);
        for (; c < to; ++c) add.template operator()<1>(c);
      }
    }
  });
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> image,
                          ffi::Buffer<ffi::F32> gradient, ffi::Result<ffi::Buffer<ffi::F32>> result) {
  auto d = image.dimensions();
  const Shape s{d[0], d[1], d[2], d[3], gradient.dimensions()[3]};
  View x{image.typed_data(), s.in, 1}, g{gradient.typed_data(), s.out, 1};
  float* y = result->typed_data();
  const int64_t size = 9 * s.in * s.out, pixels = s.batch * s.height * s.width;
  std::fill(y, y + size, 0.0f);
  // Bands of rows whose pixels stay in the cache for all taps.
  const int64_t band = std::clamp<int64_t>(65536 / (s.width * (s.in + s.out)), 1, s.height);
  const int64_t bands = (s.height + band - 1) / band, total = s.batch * bands;
  const auto add_bands = [&](int64_t begin, int64_t end, int64_t from, int64_t to, float* sum) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t first = n % bands * band;
      AddRows(x, g, sum, n / bands, first, std::min(first + band, s.height), from, to, s);
    }
  };
  // Parts do not depend on the number of threads: sums are always added in the same order.
  const int64_t parts = std::min<int64_t>(total, kParts);
  if (parts * size > total * band * s.width * (s.in + s.out)) {  // more sums than pixels
    std::vector<float> blocked_x, blocked_g;
    // Pixels kilobytes apart push one another out of the cache.
    if (s.in % kChannels == 0 && s.out % (2 * kLanes) == 0) {
      blocked_x = Blocked(pool, x.data, pixels, s.in, kChannels);
      blocked_g = Blocked(pool, g.data, pixels, s.out, 2 * kLanes);
      x = {blocked_x.data(), kChannels, pixels};
      g = {blocked_g.data(), 2 * kLanes, pixels};
    }
    const int64_t step = kChannels * ((s.in + kChannels * kParts - 1) / (kChannels * kParts));
    Parallel(pool, (s.in + step - 1) / step, [&](int part) {
      add_bands(0, total, part * step, std::min((part + 1) * step, s.in), y);
    });
    return ffi::Error::Success();
  }
  std::vector<float> sums(parts * size);  // zeros
  Parallel(pool, parts, [&](int part) {
    const int64_t begin = total * part / parts, end = total * (part + 1) / parts;
    add_bands(begin, end, 0, s.in, &sums[part * size]);
  });
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t k = 0; k < size; ++k) y[k] += sums[part * size + k];
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegConvolve, Convolve, (Arrays<2, 1>(BindToPool())));
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegImageGradient, ImageGradient, (Arrays<2, 1>(BindToPool())));
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegKernelGradient, KernelGradient, (Arrays<2, 1>(BindToPool())));
