// Norm over the pixels of groups [G, P, C], followed by leaky ReLU, and its gradient, for the CPU.
//
// Batch norm has one group, instance norm one for each sample. What is negative in the end is
// multiplied with `slope`: 0 is ReLU, 1 leaves everything as it is.
//
// XLA goes through the pixels about six times forward and fourteen times backward, this three and
// five times: large images do not fit into the cache, and the memory is what takes the time.
// float32, or pixels in bfloat16 and all else in float32, C a multiple of 8. Compiled on first use and called by XLA (see __init__.py).

#include <cmath>

#include "common.h"

namespace {

struct Extent {
  int64_t groups, pixels, channels;
};

template <typename Array>
Extent ExtentOf(const Array& x, int64_t statistics) {
  const int64_t channels = x.dimensions().back(), groups = statistics / channels;
  return {groups, static_cast<int64_t>(x.element_count()) / statistics, channels};
}

// Calls body(part, first, last) for blocks of pixels that a core's cache holds; those of one part
// in their order. Each group has kParts parts, and pixels count on from group to group.
template <typename Body>
void ForBlocks(ffi::ThreadPool& pool, const Extent& s, const Body& body) {
  const int64_t block = std::max<int64_t>(16384 / s.channels, 1);
  Parallel(pool, s.groups * kParts, [&](int part) {
    const int64_t start = part / kParts * s.pixels, share = part % kParts;
    const int64_t end = start + s.pixels * (share + 1) / kParts;
    for (int64_t p = start + s.pixels * share / kParts; p < end; p += block)
      body(part, p, std::min(p + block, end));
  });
}

// Mean and sum of squared deviations of n numbers, for each channel.
struct Moments {
  double n = 0;
  std::vector<double> mean, squares;

  explicit Moments(int64_t channels) : mean(channels), squares(channels) {}

  // Takes in m numbers of channel c (Chan, Golub and LeVeque, 1979); n is the caller's to raise.
  void Merge(int64_t c, double m, double their_mean, double their_squares) {
    const double apart = their_mean - mean[c];
    mean[c] += apart * m / (n + m);
    squares[c] += their_squares + apart * apart * n * m / (n + m);
  }
};

// Returns those of each group.
template <typename Stored>
std::vector<Moments> MomentsOf(ffi::ThreadPool& pool, const Stored* x, const Extent& s) {
  std::vector<Moments> parts(s.groups * kParts, Moments(s.channels));
  ForBlocks(pool, s, [&](int part, int64_t first, int64_t last) {
    const float n = last - first;
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      V<N> mean[R] = {}, squares[R] = {};
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) mean[r] += At<N>(x + p * s.channels + c + r * N);
      for (int r = 0; r < R; ++r) mean[r] /= n;
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) {
          const V<N> apart = At<N>(x + p * s.channels + c + r * N) - mean[r];
          squares[r] += apart * apart;
        }
      for (int r = 0; r < R; ++r)
        for (int i = 0; i < N; ++i) parts[part].Merge(c + r * N + i, n, mean[r][i], squares[r][i]);
    });
    parts[part].n += n;
  });
  std::vector<Moments> groups;
  for (int64_t group = 0; group < s.groups; ++group) {
    Moments& whole = groups.emplace_back(std::move(parts[group * kParts]));
    for (int part = group * kParts + 1; part < (group + 1) * kParts; ++part) {
      if (parts[part].n == 0) continue;  // fewer pixels than parts
      for (int64_t c = 0; c < s.channels; ++c)
        whole.Merge(c, parts[part].n, parts[part].mean[c], parts[part].squares[c]);
      whole.n += parts[part].n;
    }
  }
  return groups;
}

// What each channel is normalised with: y = (x - mean) * factor + bias; mean and factor [G, C].
struct Affine {
  const float *mean, *bias;
  std::vector<float> factor;

  Affine(const float* mean, const float* variance, const float* scale, const float* bias,
         float epsilon, const Extent& s)
      : mean(mean), bias(bias), factor(s.groups * s.channels) {
    for (int64_t i = 0; i < s.groups * s.channels; ++i)
      factor[i] = scale[i % s.channels] / std::sqrt(variance[i] + epsilon);
  }
};

template <int N, int R>
struct AffineRegisters {
  V<N> mean[R], factor[R], bias[R];

  AffineRegisters(const Affine& affine, int64_t first, int64_t c) {  // first: of the group
    for (int r = 0; r < R; ++r) {
      mean[r] = At<N>(&affine.mean[first + c + r * N]);
      factor[r] = At<N>(&affine.factor[first + c + r * N]);
      bias[r] = At<N>(&affine.bias[c + r * N]);
    }
  }
  V<N> operator()(V<N> x, int r) const { return (x - mean[r]) * factor[r] + bias[r]; }
};

using Floats = ffi::Buffer<ffi::F32>;

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error Norm(ffi::ThreadPool pool, float epsilon, float slope, Array image, Floats scale,
                Floats bias, ffi::Result<Array> result, ffi::Result<Floats> mean,
                ffi::Result<Floats> variance) {
  const Extent s = ExtentOf(image, mean->element_count());
  const auto* x = image.typed_data();
  const std::vector<Moments> moments = MomentsOf(pool, x, s);
  for (int64_t i = 0; i < s.groups * s.channels; ++i) {
    const Moments& group = moments[i / s.channels];
    mean->typed_data()[i] = group.mean[i % s.channels];
    variance->typed_data()[i] = group.squares[i % s.channels] / group.n;
  }
  const Affine affine(mean->typed_data(), variance->typed_data(), scale.typed_data(),
                      bias.typed_data(), epsilon, s);
  auto* y = result->typed_data();
  ForBlocks(pool, s, [&](int part, int64_t first, int64_t last) {
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      const AffineRegisters<N, R> normalised(affine, part / kParts * s.channels, c);
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) {
          const int64_t at = p * s.channels + c + r * N;
          const V<N> value = normalised(At<N>(x + at), r);
          const V<N> negative = slope == 0.0f ? V<N>{} : value * slope;
          Put<N>(y + at, value < 0.0f ? negative : value);  // NaN stays NaN
        }
    });
  });
  return ffi::Error::Success();
}

template <typename Number, typename Array = ffi::Buffer<Number::kType>>
ffi::Error NormGradient(ffi::ThreadPool pool, float epsilon, float slope, Array gradient,
                        Array image, Floats mean, Floats variance, Floats scale, Floats bias,
                        ffi::Result<Array> image_gradient, ffi::Result<Floats> scale_gradient,
                        ffi::Result<Floats> bias_gradient) {
  const Extent s = ExtentOf(image, mean.element_count());
  const auto *x = image.typed_data(), *dy = gradient.typed_data();
  const Affine affine(mean.typed_data(), variance.typed_data(), scale.typed_data(),
                      bias.typed_data(), epsilon, s);
  // The gradient before the ReLU; at 0 as jax has it: none, but all of it where ReLU leaks.
  const auto passed = [&]<int N, int R>(const AffineRegisters<N, R>& normalised, int64_t at, int r) {
    const V<N> d = At<N>(dy + at);
    if (slope == 1.0f) return d;
    const V<N> value = normalised(At<N>(x + at), r);
    return slope == 0.0f ? (value > 0.0f ? d : V<N>{}) : (value >= 0.0f ? d : d * slope);
  };
  // Sums of the gradient, and of the gradient times x - mean.
  std::vector<double> sums(s.groups * kParts * 2 * s.channels);
  ForBlocks(pool, s, [&](int part, int64_t first, int64_t last) {
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      const AffineRegisters<N, R> normalised(affine, part / kParts * s.channels, c);
      V<N> plain[R] = {}, times[R] = {};
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) {
          const int64_t at = p * s.channels + c + r * N;
          const V<N> d = passed(normalised, at, r);
          plain[r] += d;
          times[r] += d * (At<N>(x + at) - normalised.mean[r]);
        }
      double* sum = &sums[part * 2 * s.channels];
      for (int r = 0; r < R; ++r)
        for (int i = 0; i < N; ++i) {
          sum[c + r * N + i] += plain[r][i];
          sum[s.channels + c + r * N + i] += times[r][i];
        }
    });
  });
  // dx = factor * (d - sum(d) / P - (x - mean) * sum(d * (x - mean)) / (P * (variance + epsilon)))
  std::vector<float> constant(s.groups * s.channels), slopes(s.groups * s.channels);
  for (int64_t c = 0; c < s.channels; ++c) {
    double bias_sum = 0, scale_sum = 0;
    for (int64_t group = 0; group < s.groups; ++group) {
      double plain = 0, times = 0;
      for (int part = group * kParts; part < (group + 1) * kParts; ++part) {
        plain += sums[part * 2 * s.channels + c];
        times += sums[(part * 2 + 1) * s.channels + c];
      }
      const int64_t i = group * s.channels + c;
      const double spread = variance.typed_data()[i] + static_cast<double>(epsilon);
      bias_sum += plain;
      scale_sum += times / std::sqrt(spread);
      constant[i] = plain / s.pixels;
      slopes[i] = times / (s.pixels * spread);
    }
    bias_gradient->typed_data()[c] = bias_sum;
    scale_gradient->typed_data()[c] = scale_sum;
  }
  auto* dx = image_gradient->typed_data();
  ForBlocks(pool, s, [&](int part, int64_t first, int64_t last) {
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      const int64_t group = part / kParts * s.channels;
      const AffineRegisters<N, R> normalised(affine, group, c);
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) {
          const int64_t at = p * s.channels + c + r * N;
          const V<N> apart = At<N>(x + at) - normalised.mean[r];
          const V<N> centred = passed(normalised, at, r) - At<N>(&constant[group + c + r * N]);
          Put<N>(dx + at, (centred - apart * At<N>(&slopes[group + c + r * N])) * normalised.factor[r]);
        }
    });
  });
  return ffi::Error::Success();
}

auto Bound() { return BindToPool().Attr<float>("epsilon").Attr<float>("slope"); }

template <typename Number>
auto BindNorm() {
  return Arrays<3, Number::kType, ffi::F32, ffi::F32, Number::kType, ffi::F32, ffi::F32>(Bound());
}

template <typename Number>
auto BindNormGradient() {
  return Arrays<3, Number::kType, Number::kType, ffi::F32, ffi::F32, ffi::F32, ffi::F32,
                Number::kType, ffi::F32, ffi::F32>(Bound());
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegNorm, Norm<Float32>, BindNorm<Float32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegNormGradient, NormGradient<Float32>,
                              BindNormGradient<Float32>());
#ifdef __AVX512BF16__
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegNormBfloat16, Norm<Bfloat16>, BindNorm<Bfloat16>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegNormGradientBfloat16, NormGradient<Bfloat16>,
                              BindNormGradient<Bfloat16>());
#endif
