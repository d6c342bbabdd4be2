// Pixels one after the other, and the gradient of a kernel that pixels of an image and of a
// gradient bring about.

#ifndef JAXSEG_NATIVE_WALK_H_
#define JAXSEG_NATIVE_WALK_H_

#include "common.h"

constexpr int kChannels = 8;  // of the kernel gradient at once

// Pixels from one on, a unit of one channel each: the steps from column to column, row to row and
// plane to plane.
struct Walk {
  const float* at;
  int64_t pixel, row, plane;
};

// sum[c, :] += image[p, c] * gradient[p, :] over n units of each row, for K channels.
template <typename Number, int N, int K, int R>
[[gnu::noinline]]  // within its caller the sums were kept in memory
void AddPixels(const Walk& image, const Walk& gradient, int64_t planes, int64_t rows, int64_t n,
               float* sum, int64_t out) {
  V<N> acc[K][R];
  for (int c = 0; c < K; ++c)
    for (int r = 0; r < R; ++r) acc[c][r] = At<N>(sum + c * out + r * N);
  for (int64_t plane = 0; plane < planes; ++plane) {
    for (int64_t row = 0; row < rows; ++row) {
      const float* x = image.at + plane * image.plane + row * image.row;
      const float* g = gradient.at + plane * gradient.plane + row * gradient.row;
      for (int64_t i = 0; i < n; ++i, x += image.pixel, g += gradient.pixel) {
        V<N> k[R];
        for (int r = 0; r < R; ++r) k[r] = At<N>(g + r * N);
        for (int c = 0; c < K; ++c)
          for (int r = 0; r < R; ++r) acc[c][r] = Number::template Add<N>(acc[c][r], x[c], k[r]);
      }
    }
  }
  for (int c = 0; c < K; ++c)
    for (int r = 0; r < R; ++r) Put<N>(sum + c * out + r * N, acc[c][r]);
}

#endif  // JAXSEG_NATIVE_WALK_H_
