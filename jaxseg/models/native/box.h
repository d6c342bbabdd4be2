// Sizes of a convolution with 3x3 or 3x3x3 pixels, and the boxes that its work is cut into.

#ifndef JAXSEG_NATIVE_BOX_H_
#define JAXSEG_NATIVE_BOX_H_

#include "common.h"

constexpr int64_t kNear = 65536;  // floats that stay in a core's cache

struct Shape {
  int64_t batch, depth, height, width, in, out;
  int64_t planes;  // of the kernel: 1 or 3
};

// Of an image [B, (D,) H, W, C] and a kernel [(K,) 3, 3, ...]; planes that a kernel does not bring
// together are images of their own.
inline Shape ShapeOf(const Dimensions& image, const Dimensions& kernel, int64_t in, int64_t out) {
  const auto d = OfVolume(image);
  const int64_t planes = OfVolume(kernel, true)[0];
  if (planes == 1) return {d[0] * d[1], 1, d[2], d[3], in, out, planes};
  return {d[0], d[1], d[2], d[3], in, out, planes};
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

// Two arrays and the result.
template <typename Number>
auto BindConvolution() {
  return Arrays<1, Number::kType, Number::kType, Number::kType>(BindToPool());
}

#endif  // JAXSEG_NATIVE_BOX_H_
