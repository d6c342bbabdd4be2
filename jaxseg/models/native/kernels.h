// Kernels as the loops of the convolutions want them.

#ifndef JAXSEG_NATIVE_KERNELS_H_
#define JAXSEG_NATIVE_KERNELS_H_

#include "common.h"

// Returns a kernel [taps, in, out] as [taps, out, in], the last tap first where mirrored; in and out
// of units.
inline std::vector<float> Transposed(ffi::ThreadPool& pool, const float* kernel, int64_t taps,
                                     int64_t in, int64_t out, bool mirrored) {
  constexpr int64_t kTile = 16;
  std::vector<float> made(taps * in * out);
  Parallel(pool, taps, [&](int tap) {
    const float* from = kernel + (mirrored ? taps - 1 - tap : tap) * in * out;
    float* to = made.data() + tap * in * out;
    for (int64_t o = 0; o < out; o += kTile)
      for (int64_t c = 0; c < in; c += kTile)
        for (int64_t k = o; k < std::min(o + kTile, out); ++k)
          for (int64_t l = c; l < std::min(c + kTile, in); ++l) to[k * in + l] = from[l * out + k];
  });
  return made;
}

// A kernel [taps, channels, out] with its inputs in units, a zero where there is no second.
template <typename Number>
struct InUnits {
  std::vector<float> made;
  const float* data;

  InUnits(ffi::ThreadPool& pool, const typename Number::Stored* kernel, int64_t taps,
          int64_t channels, int64_t out) {
    if constexpr (Number::kInUnit == 1) {
      data = kernel;
    } else {
#ifdef __AVX512BF16__
      const int64_t units = (channels + 1) / 2;
      const std::vector<uint16_t> none(out);
      made.resize(taps * units * out);
      Parallel(pool, taps, [&](int tap) {
        for (int64_t c = 0; c < units; ++c) {
          const uint16_t* first = kernel + (tap * channels + 2 * c) * out;
          const uint16_t* second = 2 * c + 1 < channels ? first + out : none.data();
          float* to = &made[(tap * units + c) * out];
          for (int64_t o = 0; o < out; ++o) to[o] = Pair(first[o], second[o]);
        }
      });
      data = made.data();
#endif
    }
  }
};

#endif  // JAXSEG_NATIVE_KERNELS_H_
