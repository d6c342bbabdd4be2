// Batch norm over pixels [P, C], followed by ReLU where asked, and its gradient, for the CPU.
//
// XLA goes through the pixels about six times forward and fourteen times backward, this three and
// five times: large images do not fit into the cache, and the memory is what takes the time.
// float32, C a multiple of 8. Compiled on first use and called by XLA (see __init__.py).

#include <cmath>

#include "common.h"

namespace {

struct Extent {
  int64_t pixels, channels;
};

// What each channel is normalised with: y = (x - mean) * factor + bias.
struct Affine {
  std::vector<float> mean, factor, bias;
};

Extent ExtentOf(const ffi::Buffer<ffi::F32>& x) {
  auto d = x.dimensions();
  return {static_cast<int64_t>(x.element_count()) / d.back(), d.back()};
}

// Calls body(part, first, last) for blocks of pixels that a core's cache holds; those of one part
// in their order.
template <typename Body>
void ForBlocks(ffi::ThreadPool& pool, const Extent& s, const Body& body) {
  const int64_t block = std::max<int64_t>(16384 / s.channels, 1);
  Parallel(pool, kParts, [&](int part) {
    const int64_t end = s.pixels * (part + 1) / kParts;
    for (int64_t p = s.pixels * part / kParts; p < end; p += block)
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

Moments MomentsOf(ffi::ThreadPool& pool, const float* x, const Extent& s) {
  std::vector<Moments> parts(kParts, Moments(s.channels));
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
  for (int part = 1; part < kParts; ++part) {
    if (parts[part].n == 0) continue;  // fewer pixels than parts
    for (int64_t c = 0; c < s.channels; ++c)
      parts[0].Merge(c, parts[part].n, parts[part].mean[c], parts[part].squares[c]);
    parts[0].n += parts[part].n;
  }
  return parts[0];
}

Affine MakeAffine(const float* mean, const float* variance, const float* scale, const float* bias,
                  float epsilon, int64_t channels) {
  Affine made{{mean, mean + channels}, std::vector<float>(channels), {bias, bias + channels}};
  for (int64_t c = 0; c < channels; ++c)
    made.factor[c] = scale[c] / std::sqrt(variance[c] + epsilon);
  return made;
}

template <int N, int R>
struct AffineRegisters {
  V<N> mean[R], factor[R], bias[R];

  AffineRegisters(const Affine& affine, int64_t c) {
    for (int r = 0; r < R; ++r) {
      mean[r] = At<N>(&affine.mean[c + r * N]);
      factor[r] = At<N>(&affine.factor[c + r * N]);
      bias[r] = At<N>(&affine.bias[c + r * N]);
    }
  }
  V<N> operator()(V<N> x, int r) const { return (x - mean[r]) * factor[r] + bias[r]; }
};

ffi::Error BatchNorm(ffi::ThreadPool pool, float epsilon, bool relu, ffi::Buffer<ffi::F32> image,
                     ffi::Buffer<ffi::F32> scale, ffi::Buffer<ffi::F32> bias,
                     ffi::Result<ffi::Buffer<ffi::F32>> result,
                     ffi::Result<ffi::Buffer<ffi::F32>> mean,
                     ffi::Result<ffi::Buffer<ffi::F32>> variance) {
  const Extent s = ExtentOf(image);
  const float* x = image.typed_data();
  const Moments moments = MomentsOf(pool, x, s);
  for (int64_t c = 0; c < s.channels; ++c) {
    mean->typed_data()[c] = moments.mean[c];
    variance->typed_data()[c] = moments.squares[c] / moments.n;
  }
  const Affine affine = MakeAffine(mean->typed_data(), variance->typed_data(), scale.typed_data(),
                                   bias.typed_data(), epsilon, s.channels);
  float* y = result->typed_data();
  ForBlocks(pool, s, [&](int, int64_t first, int64_t last) {
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      const AffineRegisters<N, R> normalised(affine, c);
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) {
          const int64_t at = p * s.channels + c + r * N;
          const V<N> value = normalised(At<N>(x + at), r);
          Put<N>(y + at, relu ? (value < 0.0f ? V<N>{} : value) : value);  // NaN stays NaN
        }
    });
  });
  return ffi::Error::Success();
}

ffi::Error BatchNormGradient(ffi::ThreadPool pool, float epsilon, bool relu,
                             ffi::Buffer<ffi::F32> gradient, ffi::Buffer<ffi::F32> image,
                             ffi::Buffer<ffi::F32> mean, ffi::Buffer<ffi::F32> variance,
                             ffi::Buffer<ffi::F32> scale, ffi::Buffer<ffi::F32> bias,
                             ffi::Result<ffi::Buffer<ffi::F32>> image_gradient,
                             ffi::Result<ffi::Buffer<ffi::F32>> scale_gradient,
                             ffi::Result<ffi::Buffer<ffi::F32>> bias_gradient) {
  const Extent s = ExtentOf(image);
  const float *x = image.typed_data(), *dy = gradient.typed_data();
  const Affine affine = MakeAffine(mean.typed_data(), variance.typed_data(), scale.typed_data(),
                                   bias.typed_data(), epsilon, s.channels);
  // The gradient before the ReLU.
  const auto passed = [&]<int N, int R>(const AffineRegisters<N, R>& normalised, int64_t at, int r) {
    const V<N> d = At<N>(dy + at);
    return relu ? (normalised(At<N>(x + at), r) > 0.0f ? d : V<N>{}) : d;
  };
  // Sums of the gradient, and of the gradient times x - mean.
  std::vector<double> sums(kParts * 2 * s.channels);
  ForBlocks(pool, s, [&](int part, int64_t first, int64_t last) {
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      const AffineRegisters<N, R> normalised(affine, c);
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
  std::vector<float> constant(s.channels), slope(s.channels);
  for (int64_t c = 0; c < s.channels; ++c) {
    double plain = 0, times = 0;
    for (int part = 0; part < kParts; ++part) {
      plain += sums[part * 2 * s.channels + c];
      times += sums[(part * 2 + 1) * s.channels + c];
    }
    const double spread = variance.typed_data()[c] + static_cast<double>(epsilon);
    bias_gradient->typed_data()[c] = plain;
    scale_gradient->typed_data()[c] = times / std::sqrt(spread);
    constant[c] = plain / s.pixels;
    slope[c] = times / (s.pixels * spread);
  }
  float* dx = image_gradient->typed_data();
  ForBlocks(pool, s, [&](int, int64_t first, int64_t last) {
    ForChannels(s.channels, [&]<int N, int R>(int64_t c) {
      const AffineRegisters<N, R> normalised(affine, c);
      for (int64_t p = first; p < last; ++p)
        for (int r = 0; r < R; ++r) {
          const int64_t at = p * s.channels + c + r * N;
          const V<N> apart = At<N>(x + at) - normalised.mean[r];
          const V<N> centred = passed(normalised, at, r) - At<N>(&constant[c + r * N]);
          Put<N>(dx + at, (centred - apart * At<N>(&slope[c + r * N])) * normalised.factor[r]);
        }
    });
  });
  return ffi::Error::Success();
}

auto Bound() { return BindToPool().Attr<float>("epsilon").Attr<bool>("relu"); }

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegBatchNorm, BatchNorm, (Arrays<3, 3>(Bound())));
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxsegBatchNormGradient, BatchNormGradient, (Arrays<6, 3>(Bound())));
