// The gradient of the kernel of the convolution with 3x3 or 3x3x3 pixels, for the CPU.
//
// XLA's own runs at a third to a half of the machine's rate where channels are few and images
// large, and in volumes at a fifth or less. image [B, D, H, W, C], gradient of the result
// [B, D, H, W, O], gradient of the kernel [K, 3, 3, C, O] of K = 1 or 3 planes, float32 or bfloat16
// with sums in float32, O a multiple of 8. float32 is read where it lies; of bfloat16 two columns
// make a unit, which are put side by side first. Compiled on first use and called by XLA
// (see __init__.py).

#include "box.h"
#include "walk.h"

namespace {

// float32 images where they lie: channel c, a multiple of the block's size, of pixel p is at
// data + p * pixel + c * channel.
struct View {
  const float* data;
  int64_t pixel, channel, width, height;

  Walk walk(int64_t plane, int64_t row, int64_t column, int64_t c, int64_t /*block*/) const {
    const int64_t p = (plane * height + row) * width + column;
    return {data + p * pixel + c * channel, pixel, width * pixel, height * width * pixel};
  }
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

#ifdef __AVX512BF16__
// Rows y..y_end of planes z..z_end (of all samples), channels from..to, as
// [C / block, planes, rows, columns, block] of units: columns 2i - shift and 2i + 1 - shift, zeros
// outside. The last blocks are as narrow as those of ForChannels, or what is left of kChannels.
struct Paired {
  int64_t z, y, from, rows, columns, count;
  std::unique_ptr<float[]> data;

  Paired(const uint16_t* x, int64_t channels, const Box& box, int64_t from, int64_t to, int shift,
         bool wide, const Shape& s)
      : z(box.z), y(box.y), from(from), rows(box.y_end - box.y), columns((s.width + 1) / 2 + shift),
        count((box.z_end - box.z) * rows * columns),
        data(std::make_unique_for_overwrite<float[]>(count * (to - from))) {
    const std::vector<uint16_t> zeros(channels);
    const auto put = [&]<int W>(int64_t c, int64_t width) {
      float* unit = &data[(c - from) * count];
      for (int64_t plane = box.z; plane < box.z_end; ++plane)
        for (int64_t row = box.y; row < box.y_end; ++row) {
          const uint16_t* pixels = x + (plane * s.height + row) * s.width * channels;
          for (int64_t i = 0; i < columns; ++i, unit += width) {
            const int64_t p = 2 * i - shift;
            const uint16_t* first = p >= 0 && p < s.width ? pixels + p * channels : zeros.data();
            const uint16_t* second = p + 1 < s.width ? pixels + (p + 1) * channels : zeros.data();
            PairChannels<W>(first + c, second + c, unit, width);
          }
        }
    };
    if (wide)
      ForChannels(to - from, [&]<int N, int R>(int64_t c) { put.template operator()<N * R>(from + c, N * R); });
    else
      for (int64_t c = from; c < to; c += kChannels) {
        if (c + kChannels <= to)
          put.template operator()<kChannels>(c, kChannels);
        else
          put.template operator()<0>(c, to - c);
      }
  }

  Walk walk(int64_t plane, int64_t row, int64_t column, int64_t c, int64_t block) const {
    const int64_t pixel = ((plane - z) * rows + row - y) * columns + column;
    return {&data[(c - from) * count + pixel * block], block, columns * block, rows * columns * block};
  }
};
#endif

// The part of a box of the gradient that has a partner in the image at tap (h, i, j).
struct Partners {
  int64_t plane, row, planes, rows;  // of the gradient: the first, and how many
  int64_t up, down;                  // to the image's

  Partners(const Box& box, int h, int i, const Shape& s) : up(h - s.planes / 2), down(i - 1) {
    plane = std::max(box.z, -up);
    planes = std::min(box.z_end, s.depth - up) - plane;
    row = std::max(box.y, -down);
    rows = std::min(box.y_end, s.height - down) - row;
    plane += box.b * s.depth;
  }
};

// Adds a box of the gradient to channels from..to of sum [K, 3, 3, C, O]. Of bfloat16, `beside` is
// the gradient a column further left, for the taps to the left and right.
template <typename Number, typename Image>
void AddBox(const Image& x, const Image& middle, const Image& beside, float* sum, const Box& box,
            int64_t from, int64_t to, const Shape& s) {
  ForChannels(s.out, [&]<int N, int R>(int64_t o) {
    for (int tap = 0; tap < 9 * s.planes; ++tap) {
      const Partners partners(box, tap / 9, tap / 3 % 3, s);
      const int j = tap % 3;
      int64_t first = 0, partner = j == 0, n = (s.width + 1) / 2;  // columns of image and gradient
      if (Number::kInUnit == 1) first = j == 2, n = s.width - (j != 1);
      const Walk g = (j == 1 ? middle : beside)
                         .walk(partners.plane, partners.row, partner, o, N * R);
      for (int64_t block = from; block < to; block += kChannels) {
        const int64_t width = std::min<int64_t>(kChannels, to - block);
        const Walk pixels = x.walk(partners.plane + partners.up, partners.row + partners.down,
                                   first, block, width);
        const auto add = [&]<int K>(int64_t c) {
          const Walk at{pixels.at + c, pixels.pixel, pixels.row, pixels.plane};
          float* to = sum + (tap * s.in + block + c) * s.out + o;
          AddPixels<Number, N, K, R>(at, g, partners.planes, partners.rows, n, to, s.out);
        };
        int64_t c = 0;
        for (; c + kChannels <= width; c += kChannels) add.template operator()<kChannels>(c);
        if (s.planes > 1)  // images keep their rounding
          for (; c + 4 <= width; c += 4) add.template operator()<4>(c);
        for (; c + 3 <= width; c += 3) add.template operator()<3>(c);
        for (; c < width; ++c) add.template operator()<1>(c);
      }
    }
  });
}

// Boxes whose pixels stay in the cache for all taps.
template <typename Number>
Cut CutForKernelGradient(const Shape& s) {
  // A pair of columns is a unit, but the gradient is there twice.
  const int64_t rows = kNear / (s.width * (s.planes * s.in / Number::kInUnit + s.out));
  if (rows < s.height || s.planes == 1) return Cut(1, std::clamp<int64_t>(rows, 1, s.height), s);
  return Cut(std::clamp<int64_t>(rows / s.height, 1, s.depth), s.height, s);
}

// Who adds boxes begin..end to channels from..to of a sum: in float32.
struct Float32Boxes {
  View x, g;
  std::vector<float> blocked_x, blocked_g;
  const Cut& cut;
  const Shape& s;

  Float32Boxes(ffi::ThreadPool& pool, const float* image, const float* gradient, bool small,
               const Cut& cut, const Shape& s)
      : x{image, s.in, 1, s.width, s.height}, g{gradient, s.out, 1, s.width, s.height}, cut(cut), s(s) {
    // Pixels kilobytes apart push one another out of the cache.
    if (!small || s.in % kChannels || s.out % (2 * kLanes)) return;
    const int64_t pixels = s.batch * s.depth * s.height * s.width;
    blocked_x = Blocked(pool, image, pixels, s.in, kChannels);
    blocked_g = Blocked(pool, gradient, pixels, s.out, 2 * kLanes);
    x = {blocked_x.data(), kChannels, pixels, s.width, s.height};
    g = {blocked_g.data(), 2 * kLanes, pixels, s.width, s.height};
  }
  void Add(int64_t begin, int64_t end, int64_t from, int64_t to, float* sum) const {
    for (int64_t n = begin; n < end; ++n)
      AddBox<Float32>(x, g, g, sum, cut.box(n, s), from, to, s);
  }
};

#ifdef __AVX512BF16__
// The same in bfloat16.
struct Bfloat16Boxes {
  const uint16_t *image, *gradient;
  std::vector<std::unique_ptr<Paired>> middle, beside;  // of all boxes, where many parts need them
  const Cut& cut;
  const Shape& s;

  Bfloat16Boxes(ffi::ThreadPool& pool, const uint16_t* image, const uint16_t* gradient, bool small,
                const Cut& cut, const Shape& s)
      : image(image), gradient(gradient), cut(cut), s(s) {
    if (!small) return;
    middle.resize(cut.count(s));
    beside.resize(cut.count(s));
    Parallel(pool, cut.count(s), [&](int n) {
      middle[n] = std::make_unique<Paired>(Gradient(n, 0));
      beside[n] = std::make_unique<Paired>(Gradient(n, 1));
    });
  }
  Paired Gradient(int64_t n, int shift) const {
    Box box = cut.box(n, s);
    box.z += box.b * s.depth, box.z_end += box.b * s.depth;
    return Paired(gradient, s.out, box, 0, s.out, shift, true, s);
  }
  // The image around a box.
  Paired Image(int64_t n, int64_t from, int64_t to) const {
    Box box = cut.box(n, s);
    const int64_t halo = s.planes / 2, before = box.b * s.depth;
    box.z = std::max<int64_t>(box.z - halo, 0) + before;
    box.z_end = std::min(box.z_end + halo, s.depth) + before;
    box.y = std::max<int64_t>(box.y - 1, 0), box.y_end = std::min(box.y_end + 1, s.height);
    return Paired(image, s.in, box, from, to, 0, false, s);
  }
  void Add(int64_t begin, int64_t end, int64_t from, int64_t to, float* sum) const {
    for (int64_t n = begin; n < end; ++n) {
      const Paired x = Image(n, from, to);
      const Box box = cut.box(n, s);
      if (middle.empty())
        AddBox<Bfloat16>(x, Gradient(n, 0), Gradient(n, 1), sum, box, from, to, s);
      else
        AddBox<Bfloat16>(x, *middle[n], *beside[n], sum, box, from, to, s);
    }
  }
};
#endif

// Writes the sums over all boxes.
template <typename Boxes, typename Number>
void SumBoxes(ffi::ThreadPool& pool, const typename Number::Stored* image,
              const typename Number::Stored* gradient, float* y, const Shape& s) {
  const int64_t size = 9 * s.planes * s.in * s.out;
  std::fill(y, y + size, 0.0f);
  const Cut cut = CutForKernelGradient<Number>(s);
  const int64_t total = cut.count(s);
  // Parts do not depend on the number of threads: sums are always added in the same order.
  const int64_t parts = std::min<int64_t>(total, kParts);
  const int64_t box_pixels = cut.planes * cut.rows * s.width;
  const bool small = parts * size > total * box_pixels * (s.in + s.out);  // more sums than pixels
  const Boxes boxes(pool, image, gradient, small, cut, s);
  if (small) {
    const int64_t step = kChannels * ((s.in + kChannels * kParts - 1) / (kChannels * kParts));
    Parallel(pool, (s.in + step - 1) / step, [&](int part) {
      boxes.Add(0, total, part * step, std::min((part + 1) * step, s.in), y);
    });
    return;
  }
  std::vector<float> sums(parts * size);  // zeros
  Parallel(pool, parts, [&](int part) {
    const int64_t begin = total * part / parts, end = total * (part + 1) / parts;
    boxes.Add(begin, end, 0, s.in, &sums[part * size]);
  });
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t k = 0; k < size; ++k) y[k] += sums[part * size + k];
}

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error KernelGradient(ffi::ThreadPool pool, Array image, Array gradient,
                          ffi::Result<Array> result) {
  auto k = result->dimensions();
  const Shape s = ShapeOf(image.dimensions(), k, k[k.size() - 2], k.back());
  if constexpr (Number::kInUnit == 1) {
    SumBoxes<Float32Boxes, Number>(pool, image.typed_data(), gradient.typed_data(),
                                   result->typed_data(), s);
  } else {
#ifdef __AVX512BF16__
    std::vector<float> sums(result->element_count());
    SumBoxes<Bfloat16Boxes, Number>(pool, image.typed_data(), gradient.typed_data(), sums.data(), s);
    for (size_t i = 0; i < sums.size(); i += 8) Put<8>(result->typed_data() + i, At<8>(&sums[i]));
#endif
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegKernelGradient, KernelGradient<Float32>,
                              BindConvolution<Float32>());
#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegKernelGradientBfloat16, KernelGradient<Bfloat16>,
                              BindConvolution<Bfloat16>());
#endif
