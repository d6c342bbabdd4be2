// Sums over the taps of a kernel and the channels of an image, a block of the result in registers.

#ifndef JAXSEG_NATIVE_SUMS_H_
#define JAXSEG_NATIVE_SUMS_H_

#include "common.h"

// Where sums are taken from and written to: pixel x of the image is at[tap] + x * step, in units,
// its result is at result + x * apart.
template <typename Number>
struct Sums {
  const float* const* at;
  int64_t taps, step, in;
  const float *kernel, *start;  // [taps, in, out], what sums begin with or null
  int64_t out;
  typename Number::Stored* result;
  int64_t apart;
};

// P neighbouring pixels and R registers of outputs.
template <typename Number, int N, int P, int R>
[[gnu::noinline]]  // within its caller the registers did not suffice
void SumPixels(const Sums<Number>& s, int64_t first) {
  V<N> sum[P][R];
  for (int r = 0; r < R; ++r) {
    const V<N> start = s.start ? At<N>(s.start + r * N) : V<N>{};
    for (int p = 0; p < P; ++p) sum[p][r] = start;
  }
  for (int64_t tap = 0; tap < s.taps; ++tap) {
    const float* x = s.at[tap] + first * s.step;
    const float* w = s.kernel + tap * s.in * s.out;
    for (int64_t c = 0; c < s.in; ++c, w += s.out) {
      V<N> k[R];
      for (int r = 0; r < R; ++r) k[r] = At<N>(w + r * N);
      for (int p = 0; p < P; ++p) {
        const float value = x[p * s.step + c];
        for (int r = 0; r < R; ++r) sum[p][r] = Number::template Add<N>(sum[p][r], value, k[r]);
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int r = 0; r < R; ++r) Put<N>(s.result + (first + p) * s.apart + r * N, sum[p][r]);
}

// Of a row: by 8 pixels, by 4 and 2 where small blocks are asked for, and one by one.
template <typename Number, int N, int R>
void SumRow(const Sums<Number>& s, int64_t width, bool small) {
  int64_t x = 0;
  const auto sum = [&]<int P>() {
    for (; x + P <= width; x += P) SumPixels<Number, N, P, R>(s, x);
  };
  sum.template operator()<8>();
  if (small) {
    sum.template operator()<4>();
    sum.template operator()<2>();
  }
  sum.template operator()<1>();
}

#endif  // JAXSEG_NATIVE_SUMS_H_
