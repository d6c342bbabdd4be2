// The transposed convolution whose stride is its window, written beside what is skipped to it, and
// its gradients.
//
// XLA multiplies, spreads the product over space and copies that and the skipped image into one, at
// a third of the machine's rate; in bfloat16 it converts all of it to float32 first. Here each pixel
// is written where it belongs: skip [B, D d, H h, W w, S], image [B, D, H, W, C], kernel
// [d, h, w, C, O], bias [O] float32, result [B, D d, H h, W w, S + O], float32 or bfloat16 with sums
// in float32, S, C and O multiples of 8.

#include "box.h"
#include "kernels.h"
#include "sums.h"
#include "walk.h"

namespace {

struct Enlarged {
  int64_t rows, height, width;  // of the image: rows of all planes and samples
  int64_t in, out, all;         // channels of the image, made, and of the result
  int64_t planes, lines, columns;  // of the window

  Enlarged(const Dimensions& image, const Dimensions& kernel, const Dimensions& result) {
    const auto x = OfVolume(image), k = OfVolume(kernel, true);
    rows = x[0] * x[1] * x[2], height = x[2], width = x[3];
    in = x[4], out = k[4], all = OfVolume(result)[4];
    planes = k[0], lines = k[1], columns = k[2];
  }

  int64_t taps() const { return planes * lines * columns; }
  int64_t pixels() const { return rows * width; }
  // Of the result, the pixel at the window's beginning for the first pixel of a row of the image.
  int64_t Origin(int64_t row) const {
    return (row / height * planes * height + row % height) * lines * width * columns;
  }
  // How far from there the pixel of a tap is.
  int64_t Tap(int64_t tap) const {
    const int64_t plane = tap / (lines * columns), line = tap / columns % lines;
    return (plane * height * lines + line) * width * columns + tap % columns;
  }
};

// Calls body<N, R>(row, output) for all rows and blocks of outputs, side by side: rows whose units
// stay in the cache, and with few of them groups of outputs.
template <typename Body>
void ForRows(ffi::ThreadPool& pool, int64_t rows, int64_t units, int64_t out, const Body& body) {
  const int64_t blocks = (out + 2 * kLanes - 1) / (2 * kLanes);
  const int64_t fit = std::clamp<int64_t>(kNear / units, 1, rows);
  const int64_t strips = std::max((rows + fit - 1) / fit, std::min(rows, (kParts - 1) / blocks + 1));
  const int64_t groups = std::min((kParts - 1) / strips + 1, blocks);
  Parallel(pool, strips * groups, [&](int part) {
    const int64_t strip = part / groups, group = part % groups;
    const int64_t from = blocks * group / groups * 2 * kLanes;
    const int64_t to = std::min(blocks * (group + 1) / groups * 2 * kLanes, out);
    ForChannels(to - from, [&]<int N, int R>(int64_t o) {
      for (int64_t row = rows * strip / strips; row < rows * (strip + 1) / strips; ++row)
        body.template operator()<N, R>(row, from + o);
    });
  });
}

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error Upconv(ffi::ThreadPool pool, Array skip, Array image, Array kernel,
                  ffi::Buffer<ffi::F32> bias, ffi::Result<Array> result) {
  const Enlarged s(image.dimensions(), kernel.dimensions(), result->dimensions());
  const int64_t units = s.in / Number::kInUnit, skipped = s.all - s.out;
  const InUnits<Number> w(pool, kernel.typed_data(), s.taps(), s.in, s.out);
  const auto* x = static_cast<const float*>(image.untyped_data());
  const auto* beside = skip.typed_data();
  auto* y = result->typed_data();
  ForRows(pool, s.rows, s.width * units, s.out, [&]<int N, int R>(int64_t row, int64_t o) {
    for (int64_t tap = 0; o == 0 && tap < s.taps(); tap += s.columns) {  // while its pixels are near
      int64_t p = s.Origin(row) + s.Tap(tap);
      for (const int64_t end = p + s.width * s.columns; p < end; ++p)
        std::memcpy(y + p * s.all, beside + p * skipped, skipped * sizeof *y);
    }
    const float* at = x + row * s.width * units;
    for (int64_t tap = 0; tap < s.taps(); ++tap) {
      const float* kernel = w.data + tap * units * s.out + o;
      auto* to = y + (s.Origin(row) + s.Tap(tap)) * s.all + skipped + o;
      SumRow<Number, N, R>({&at, 1, units, units, kernel, bias.typed_data() + o, s.out, to,
                            s.columns * s.all}, s.width, true);
    }
  });
  return ffi::Error::Success();
}

// gradient: of the result.
template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error UpconvImageGradient(ffi::ThreadPool pool, Array gradient, Array kernel,
                               ffi::Result<Array> result) {
  const Enlarged s(result->dimensions(), kernel.dimensions(), gradient.dimensions());
  const int64_t units = s.out / Number::kInUnit, all = s.all / Number::kInUnit;
  const auto* w = static_cast<const float*>(kernel.untyped_data());
  const std::vector<float> turned = Transposed(pool, w, s.taps(), s.in, units, false);
  const auto* dy = static_cast<const float*>(gradient.untyped_data()) + all - units;
  ForRows(pool, s.rows, s.width * s.taps() * units, s.in, [&]<int N, int R>(int64_t row, int64_t c) {
    std::vector<const float*> at(s.taps());
    for (int64_t tap = 0; tap < s.taps(); ++tap) at[tap] = dy + (s.Origin(row) + s.Tap(tap)) * all;
    SumRow<Number, N, R>({at.data(), s.taps(), s.columns * all, units, &turned[c], nullptr, s.in,
                          result->typed_data() + row * s.width * s.in + c, s.in}, s.width, true);
  });
  return ffi::Error::Success();
}

// A unit of each of W channels: of one pixel, or of two.
template <typename Number, int W>
void PutUnits(const typename Number::Stored* first, const typename Number::Stored* second, float* to) {
  if constexpr (Number::kInUnit == 1) {
    std::memcpy(to, first, W * sizeof(float));
  } else {
#ifdef __AVX512BF16__
    PairChannels<W>(first, second, to, W);
#endif
  }
}

constexpr int64_t kWide = 2 * kLanes;  // outputs of a part of the kernel's gradient

// Adds pixels begin..end to sum [taps, C + 1, kWide] of outputs from o on; the last row of a tap is
// the bias's. They are put side by side first, as many as stay in the cache: pixels kilobytes apart
// push one another out of it.
template <typename Number, int N, int R>
void AddOutputs(const typename Number::Stored* image, const typename Number::Stored* gradient,
                int64_t begin, int64_t end, int64_t o, float* sum, const Enlarged& s) {
  constexpr int W = N * R;
  const int64_t most = std::clamp<int64_t>(kNear / 2 / s.in, 32, 256), kept = most / Number::kInUnit;
  std::vector<float> x(s.in * kept), g(s.taps() * kept * W), ones(kept);
  for (float& one : ones) {
    if constexpr (Number::kInUnit == 1) one = 1;
#ifdef __AVX512BF16__
    else one = Pair(0x3f80, 0x3f80);
#endif
  }
  const std::vector<typename Number::Stored> zeros(std::max(s.in, s.all));
  std::vector<int64_t> taps(s.taps());
  for (int64_t tap = 0; tap < s.taps(); ++tap) taps[tap] = s.Tap(tap);
  for (int64_t first = begin; first < end; first += most) {
    const int64_t last = std::min(first + most, end);
    const int64_t units = (last - first + Number::kInUnit - 1) / Number::kInUnit;
    for (int64_t i = 0; i < units; ++i) {
      const int64_t p = first + i * Number::kInUnit, q = p + 1;
      const bool both = q < last;
      const auto* pixel = image + p * s.in;
      const auto* partner = both ? pixel + s.in : zeros.data();
      for (int64_t c = 0; c < s.in; c += kChannels)
        PutUnits<Number, kChannels>(pixel + c, partner + c, &x[c * units + i * kChannels]);
      const auto at = [&](int64_t p) {
        const int64_t pixel = s.Origin(p / s.width) + p % s.width * s.columns;
        return gradient + pixel * s.all + s.all - s.out + o;
      };
      const auto *made = at(p), *beside = both ? at(q) : zeros.data();
      for (int64_t tap = 0; tap < s.taps(); ++tap)
        PutUnits<Number, W>(made + taps[tap] * s.all, both ? beside + taps[tap] * s.all : beside,
                            &g[(tap * units + i) * W]);
    }
    for (int64_t tap = 0; tap < s.taps(); ++tap) {
      const Walk outputs{&g[tap * units * W], W, 0, 0};
      float* to = sum + tap * (s.in + 1) * kWide;
      for (int64_t c = 0; c < s.in; c += kChannels, to += kChannels * kWide)
        AddPixels<Number, N, kChannels, R>({&x[c * units], kChannels, 0, 0}, outputs, 1, 1, units, to,
                                           kWide);
      AddPixels<Number, N, 1, R>({ones.data(), 1, 0, 0}, outputs, 1, 1, units, to, kWide);
    }
  }
}

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error UpconvKernelGradient(ffi::ThreadPool pool, Array image, Array gradient,
                                ffi::Result<Array> result, ffi::Result<ffi::Buffer<ffi::F32>> bias) {
  const Enlarged s(image.dimensions(), result->dimensions(), gradient.dimensions());
  // Parts do not depend on the number of threads: sums are always added in the same order.
  constexpr int64_t kFew = 64;  // pixels
  const int64_t blocks = (s.out + kWide - 1) / kWide, size = s.taps() * (s.in + 1) * kWide;
  const int64_t parts = std::min((kParts - 1) / blocks + 1, (s.pixels() - 1) / kFew + 1);
  std::vector<float> sums(parts * blocks * size);  // zeros
  Parallel(pool, parts * blocks, [&](int n) {
    const int64_t part = n / blocks, from = n % blocks * kWide;
    float* sum = &sums[n * size];
    ForChannels(std::min(kWide, s.out - from), [&]<int N, int R>(int64_t o) {
      AddOutputs<Number, N, R>(image.typed_data(), gradient.typed_data(), s.pixels() * part / parts,
                               s.pixels() * (part + 1) / parts, from + o, sum + o, s);
    });
  });
  // Eight outputs from o on of row c of a tap; of its bias, c = C.
  const auto total = [&](int64_t tap, int64_t c, int64_t o) {
    const int64_t at = o / kWide * size + (tap * (s.in + 1) + c) * kWide + o % kWide;
    V<8> sum{};
    for (int64_t part = 0; part < parts; ++part) sum += At<8>(&sums[part * blocks * size + at]);
    return sum;
  };
  auto* y = result->typed_data();
  Parallel(pool, s.taps(), [&](int tap) {
    for (int64_t c = 0; c < s.in; ++c)
      for (int64_t o = 0; o < s.out; o += 8) Put<8>(y + (tap * s.in + c) * s.out + o, total(tap, c, o));
  });
  for (int64_t o = 0; o < s.out; o += 8) {
    V<8> sum{};
    for (int64_t tap = 0; tap < s.taps(); ++tap) sum += total(tap, s.in, o);
    Put<8>(bias->typed_data() + o, sum);
  }
  return ffi::Error::Success();
}

template <typename Number>
auto BindUpconv() {
  return Arrays<1, Number::kType, Number::kType, Number::kType, ffi::F32, Number::kType>(BindToPool());
}

template <typename Number>
auto BindUpconvKernelGradient() {
  return Arrays<2, Number::kType, Number::kType, Number::kType, ffi::F32>(BindToPool());
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegUpconv, Upconv<Float32>, BindUpconv<Float32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegUpconvImageGradient, UpconvImageGradient<Float32>,
                              BindConvolution<Float32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegUpconvKernelGradient, UpconvKernelGradient<Float32>,
                              BindUpconvKernelGradient<Float32>());
#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegUpconvBfloat16, Upconv<Bfloat16>, BindUpconv<Bfloat16>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegUpconvImageGradientBfloat16, UpconvImageGradient<Bfloat16>,
                              BindConvolution<Bfloat16>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegUpconvKernelGradientBfloat16, UpconvKernelGradient<Bfloat16>,
                              BindUpconvKernelGradient<Bfloat16>());
#endif
