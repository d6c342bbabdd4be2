// The convolution with 3x3 or 3x3x3 pixels, stride 1, zero padding, and its gradients, for the CPU.
//
// XLA's own kernel gradient runs at a third to a half of the machine's rate where channels are
// few and images large, and in volumes all three run at a fifth or less. The loops here keep a block of
// the result in registers and read images and kernels where they lie: image [B, D, H, W, C],
// kernel [K, 3, 3, C, O] of K = 1 or 3 planes, result [B, D, H, W, O], float32, O a multiple of 8.
// An image is a volume of one plane. Compiled on first use and called by XLA (see __init__.py).

#include <cmath>

#include "common.h"

namespace {

constexpr int kPixels = 8;        // of the result at once: 8 x 2 registers
constexpr int kChannels = 8;      // of the kernel gradient at once
constexpr int64_t kNear = 65536;  // floats that stay in a core's cache

struct Shape {
  int64_t batch, depth, height, width, in, out;
  int64_t planes;  // of the kernel: 1 or 3
};

using Array = ffi::Buffer<ffi::F32>;
using Dimensions = decltype(std::declval<const Array>().dimensions());

// Of an image [B, (D,) H, W, C] and a kernel [(K,) 3, 3, ...]; planes that a kernel does not bring
// together are images of their own.
Shape ShapeOf(const Dimensions& image, const Dimensions& kernel, int64_t in, int64_t out) {
  const bool volumes = image.size() == 5;
  const int64_t planes = kernel.size() == 5 ? kernel[0] : 1, depth = volumes ? image[1] : 1;
  const int64_t height = image[image.size() - 3], width = image[image.size() - 2];
  if (planes == 1) return {image[0] * depth, 1, height, width, in, out, planes};
  return {image[0], depth, height, width, in, out, planes};
}

// Rows of the image that a row of the result depends on, plane by plane, each padded by a pixel.
struct Rows {
  const float* at[9];
  int count;
};

// result[p, :] = sum over taps and channels of rows.at[i][x + p + j, c] * kernel[i, j, c, :]
// for P neighbouring pixels and R registers of outputs.
template <int N, int P, int R>
[[gnu::noinline]]  // within its caller the registers did not suffice
void ConvolvePixels(const Rows& rows, int64_t first, const float* kernel, float* result,
                    const Shape& s) {
  V<N> sum[P][R] = {};
  for (int i = 0; i < rows.count; ++i) {
    for (int j = 0; j < 3; ++j) {
      const float* x = rows.at[i] + (first + j) * s.in;
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
void ConvolveRow(const Rows& rows, const float* kernel, float* result, const Shape& s) {
  int64_t x = 0;
  const auto convolve = [&]<int P>() {
    for (; x + P <= s.width; x += P)
      ConvolvePixels<N, P, R>(rows, x, kernel, result + x * s.out, s);
  };
  convolve.template operator()<kPixels>();
  if (s.planes > 1) {  // images keep their rounding, which differs between blocks
    convolve.template operator()<4>();
    convolve.template operator()<2>();
  }
  convolve.template operator()<1>();
}

// Returns the kernel of the image's gradient: mirrored, with inputs and outputs exchanged.
std::vector<float> Transposed(ffi::ThreadPool& pool, const float* kernel, const Shape& s) {
  constexpr int64_t kTile = 16;
  const int64_t taps = 9 * s.planes, in = s.out, out = s.in;  // of the kernel as it is
  std::vector<float> made(taps * in * out);
  Parallel(pool, taps, [&](int tap) {
    const float* from = kernel + (taps - 1 - tap) * in * out;  // [in, out]
    float* to = made.data() + tap * in * out;                  // [out, in]
    for (int64_t o = 0; o < out; o += kTile)
      for (int64_t c = 0; c < in; c += kTile)
        for (int64_t k = o; k < std::min(o + kTile, out); ++k)
          for (int64_t l = c; l < std::min(c + kTile, in); ++l) to[k * in + l] = from[l * out + k];
  });
  return made;
}

// A part of the result: planes z..z_end of sample b, rows y..y_end.
struct Box {
  int64_t b, z, z_end, y, y_end;
};

// How the result is cut into boxes.
struct Cut {
  int64_t planes, rows;            // of a box
  int64_t deep, high;              // boxes one behind and one below the other
  Cut(int64_t planes, int64_t rows, const Shape& s)
      : planes(planes), rows(rows), deep((s.depth + planes - 1) / planes),
        high((s.height + rows - 1) / rows) {}
  int64_t count(const Shape& s) const { return s.batch * deep * high; }
  Box box(int64_t n, const Shape& s) const {
    const int64_t z = n / high % deep * planes, y = n % high * rows;
    return {n / high / deep, z, std::min(z + planes, s.depth), y, std::min(y + rows, s.height)};
  }
};

// A copy of the image around a box, with zeros outside the image.
struct Padded {
  const Box box;
  const int64_t halo, row, high;  // planes before the box, floats of a row, rows of a plane
  std::vector<float> data;

  Padded(const float* x, const Box& box, const Shape& s)
      : box(box), halo(s.planes / 2), row((s.width + 2) * s.in), high(box.y_end - box.y + 2),
        data((box.z_end - box.z + 2 * halo) * high * row) {
    const int64_t top = std::max<int64_t>(box.y - 1, 0), end = std::min(box.y_end + 1, s.height);
    for (int64_t z = std::max<int64_t>(box.z - halo, 0); z < std::min(box.z_end + halo, s.depth); ++z)
      for (int64_t y = top; y < end; ++y)
        std::memcpy(&data[((z - box.z + halo) * high + y - box.y + 1) * row + s.in],
                    x + ((box.b * s.depth + z) * s.height + y) * s.width * s.in,
                    s.width * s.in * sizeof(float));
  }

  // Rows around row y of plane z, for the kernel's planes from..to.
  Rows Around(int64_t z, int64_t y, int from, int to) const {
    Rows rows{{}, 3 * (to - from)};
    for (int i = 0; i < rows.count; ++i)
      rows.at[i] = &data[((z - box.z + from + i / 3) * high + y - box.y + i % 3) * row];
    return rows;
  }
};

// Boxes whose padded copies stay in the cache while all outputs are computed.
Cut CutForConvolution(const Shape& s) {
  const int64_t rows = (s.planes == 1 ? 1 : 2) * kNear / ((s.width + 2) * s.in);
  if (s.planes == 1) return Cut(1, std::clamp<int64_t>(rows - 2, 1, s.height), s);
  const int64_t side = std::sqrt(rows);  // as deep as high: the least to copy
  const int64_t planes = std::clamp<int64_t>(side - 2, 1, s.depth);
  return Cut(planes, std::clamp<int64_t>(rows / (planes + 2) - 2, 1, s.height), s);
}

void ConvolveImages(ffi::ThreadPool& pool, const float* x, const float* w, float* y, const Shape& s) {
  const Cut cut = CutForConvolution(s);
  const int64_t boxes = cut.count(s), blocks = (s.out + 2 * kLanes - 1) / (2 * kLanes);
  const int64_t groups = std::min((kParts + boxes - 1) / boxes, blocks);  // of outputs: small images
  Parallel(pool, boxes * groups, [&](int part) {
    const Padded padded(x, cut.box(part / groups, s), s);
    const Box& box = padded.box;
    const int64_t from = blocks * (part % groups) / groups * 2 * kLanes;
    const int64_t to = std::min(blocks * (part % groups + 1) / groups * 2 * kLanes, s.out);
    ForChannels(to - from, [&]<int N, int R>(int64_t offset) {
      const int64_t o = from + offset;
      for (int64_t z = box.z; z < box.z_end; ++z) {
        // Planes outside the image are left out.
        const int first = s.planes == 3 && z == 0, last = s.planes - (s.planes == 3 && z == s.depth - 1);
        for (int64_t r = box.y; r < box.y_end; ++r) {
          float* row = y + ((box.b * s.depth + z) * s.height + r) * s.width * s.out;
          const float* kernel = w + first * 9 * s.in * s.out;
          ConvolveRow<N, R>(padded.Around(z, r, first, last), kernel + o, row + o, s);
        }
      }
    });
  });
}

ffi::Error Convolve(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> image, ffi::Buffer<ffi::F32> kernel,
                    ffi::Result<ffi::Buffer<ffi::F32>> result) {
  auto k = kernel.dimensions();
  const Shape s = ShapeOf(image.dimensions(), k, k[k.size() - 2], k.back());
  ConvolveImages(pool, image.typed_data(), kernel.typed_data(), result->typed_data(), s);
  return ffi::Error::Success();
}

ffi::Error ImageGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> gradient,
                         ffi::Buffer<ffi::F32> kernel, ffi::Result<ffi::Buffer<ffi::F32>> result) {
  auto k = kernel.dimensions();
  const Shape s = ShapeOf(gradient.dimensions(), k, k.back(), k[k.size() - 2]);
  const std::vector<float> mirrored = Transposed(pool, kernel.typed_data(), s);
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

// Pixels p of the image and q of the gradient that one tap brings together: n of each of some rows
// of some planes.
struct Pairs {
  int64_t p, q, planes, rows, n;
};

// sum[c, :] += image[p, c] * gradient[q, :] over all pairs, for K channels.
template <int N, int K, int R>
void AddPixels(const View& image, const View& gradient, const Pairs& pairs, int64_t c, int64_t o,
               float* sum, const Shape& s) {
  V<N> acc[K][R];
  for (int c = 0; c < K; ++c)
    for (int r = 0; r < R; ++r) acc[c][r] = At<N>(sum + c * s.out + r * N);
  for (int64_t plane = 0; plane < pairs.planes; ++plane) {
    for (int64_t row = 0; row < pairs.rows; ++row) {
      const int64_t away = (plane * s.height + row) * s.width;
      const float* x = image.at(pairs.p + away, c);
      const float* g = gradient.at(pairs.q + away, o);
      for (int64_t i = 0; i < pairs.n; ++i, x += image.pixel, g += gradient.pixel) {
        V<N> k[R];
        for (int r = 0; r < R; ++r) k[r] = At<N>(g + r * N);
        for (int c = 0; c < K; ++c)
          for (int r = 0; r < R; ++r) acc[c][r] += x[c] * k[r];
      }
    }
  }
  for (int c = 0; c < K; ++c)
    for (int r = 0; r < R; ++r) Put<N>(sum + c * s.out + r * N, acc[c][r]);
}

// The pixels of a box of the gradient that have a partner at tap (h, i, j).
Pairs PairsOf(const Box& box, int h, int i, int j, const Shape& s) {
  const int64_t up = h - s.planes / 2;
  const int64_t front = std::max(box.z, -up), back = std::min(box.z_end, s.depth - up);
  const int64_t top = std::max<int64_t>(box.y, 1 - i), bottom = std::min(box.y_end, s.height + 1 - i);
  const int64_t left = std::max(1 - j, 0);
  const int64_t q = ((box.b * s.depth + front) * s.height + top) * s.width + left;
  const int64_t p = q + (up * s.height + i - 1) * s.width + j - 1;
  return {p, q, back - front, bottom - top, s.width - (j != 1)};
}

// Adds a box of the gradient to channels from..to of sum [K, 3, 3, C, O].
void AddBox(const View& x, const View& g, float* sum, const Box& box, int64_t from, int64_t to,
            const Shape& s) {
  ForChannels(s.out, [&]<int N, int R>(int64_t o) {
    for (int tap = 0; tap < 9 * s.planes; ++tap) {
      const Pairs pairs = PairsOf(box, tap / 9, tap / 3 % 3, tap % 3, s);
      const auto add = [&]<int K>(int64_t c) {
        AddPixels<N, K, R>(x, g, pairs, c, o, sum + (tap * s.in + c) * s.out + o, s);
      };
      int64_t c = from;
      for (; c + kChannels <= to; c += kChannels) add.template operator()<kChannels>(c);
      if (s.planes > 1)  // images keep their rounding
        for (; c + 4 <= to; c += 4) add.template operator()<4>(c);
      for (; c + 3 <= to; c += 3) add.template operator()<3>(c);
      for (; c < to; ++c) add.template operator()<1>(c);
    }
  });
}

// Boxes whose pixels stay in the cache for all taps.
Cut CutForKernelGradient(const Shape& s) {
  const int64_t rows = kNear / (s.width * (s.planes * s.in + s.out));
  if (rows < s.height || s.planes == 1) return Cut(1, std::clamp<int64_t>(rows, 1, s.height), s);
  return Cut(std::clamp<int64_t>(rows / s.height, 1, s.depth), s.height, s);
}

ffi::Error KernelGradient(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> image,
                          ffi::Buffer<ffi::F32> gradient, ffi::Result<ffi::Buffer<ffi::F32>> result) {
  auto k = result->dimensions();
  const Shape s = ShapeOf(image.dimensions(), k, k[k.size() - 2], k.back());
  View x{image.typed_data(), s.in, 1}, g{gradient.typed_data(), s.out, 1};
  float* y = result->typed_data();
  const int64_t size = 9 * s.planes * s.in * s.out, pixels = s.batch * s.depth * s.height * s.width;
  std::fill(y, y + size, 0.0f);
  const Cut cut = CutForKernelGradient(s);
  const int64_t total = cut.count(s);
  const auto add_boxes = [&](int64_t begin, int64_t end, int64_t from, int64_t to, float* sum) {
    for (int64_t n = begin; n < end; ++n) AddBox(x, g, sum, cut.box(n, s), from, to, s);
  };
  // Parts do not depend on the number of threads: sums are always added in the same order.
  const int64_t parts = std::min<int64_t>(total, kParts);
  const int64_t box_pixels = cut.planes * cut.rows * s.width;
  if (parts * size > total * box_pixels * (s.in + s.out)) {  // more sums than pixels
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
      add_boxes(0, total, part * step, std::min((part + 1) * step, s.in), y);
    });
    return ffi::Error::Success();
  }
  std::vector<float> sums(parts * size);  // zeros
  Parallel(pool, parts, [&](int part) {
    const int64_t begin = total * part / parts, end = total * (part + 1) / parts;
    add_boxes(begin, end, 0, s.in, &sums[part * size]);
  });
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t k = 0; k < size; ++k) y[k] += sums[part * size + k];
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegConvolve, Convolve, (Arrays<2, 1>(BindToPool())));
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegImageGradient, ImageGradient, (Arrays<2, 1>(BindToPool())));
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegKernelGradient, KernelGradient, (Arrays<2, 1>(BindToPool())));
