// What the operations share: registers of floats, kinds of numbers, blocks of channels, work on
// XLA's threads.

#ifndef JAXSEG_NATIVE_COMMON_H_
#define JAXSEG_NATIVE_COMMON_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace ffi = xla::ffi;

// Floats of one register.
#ifdef __AVX512F__
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
template <int N>
struct Vector {
  typedef float type __attribute__((vector_size(N * sizeof(float)), aligned(4), may_alias));
};
template <int N>
using V = typename Vector<N>::type;

// By copying: clang takes a reference to V<N> as a promise of whole alignment.
template <int N>
V<N> At(const float* x) {
  V<N> value;
  std::memcpy(&value, x, sizeof value);
  return value;
}
template <int N>
void Put(float* x, V<N> value) {
  std::memcpy(x, &value, sizeof value);
}

// What an array holds. A product takes 32 bits of it, a unit, which pass for a float wherever they
// are only moved.
struct Float32 {
  using Stored = float;
  static constexpr ffi::DataType kType = ffi::F32;
  static constexpr int kInUnit = 1;
  template <int N>
  static V<N> Add(V<N> sum, float x, V<N> k) {
    return sum + x * k;
  }
};

#ifdef __AVX512BF16__
// Two neighbours in a unit: both products are added, in float32 (denormal numbers count as 0).
struct Bfloat16 {
  using Stored = uint16_t;
  static constexpr ffi::DataType kType = ffi::BF16;
  static constexpr int kInUnit = 2;
  template <int N>
  static V<N> Add(V<N> sum, float x, V<N> k) {
    if constexpr (N == 16)
      return (V<N>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(x), (__m512bh)k);
    else
      return (V<N>)_mm256_dpbf16_ps((__m256)sum, (__m256bh)_mm256_set1_ps(x), (__m256bh)k);
  }
};

inline float Pair(uint16_t first, uint16_t second) {
  return std::bit_cast<float>(first | static_cast<uint32_t>(second) << 16);
}

template <int N>
struct Bits {
  typedef uint16_t halves __attribute__((vector_size(N * sizeof(uint16_t))));
  typedef uint32_t words __attribute__((vector_size(N * sizeof(uint32_t))));
};

template <int N>
typename Bits<N>::words Words(const uint16_t* x) {
  typename Bits<N>::halves halves;
  std::memcpy(&halves, x, sizeof halves);
  return __builtin_convertvector(halves, typename Bits<N>::words);
}
template <int N>
V<N> At(const uint16_t* x) {
  return (V<N>)(Words<N>(x) << 16);
}
template <int N>
V<N> Pairs(const uint16_t* first, const uint16_t* second) {
  return (V<N>)(Words<N>(first) | Words<N>(second) << 16);
}
template <int N>
void Put(uint16_t* x, V<N> value) {
  if constexpr (N == 16) {
    const __m256bh half = _mm512_cvtneps_pbh((__m512)value);
    std::memcpy(x, &half, sizeof half);
  } else {
    const __m128bh half = _mm256_cvtneps_pbh((__m256)value);
    std::memcpy(x, &half, sizeof half);
  }
}
// Of W channels, or of fewer than 8.
template <int W>
void PairChannels(const uint16_t* first, const uint16_t* second, float* to, int64_t width) {
  constexpr int N = std::min(W, kLanes);
  if constexpr (W == 0)
    for (int64_t c = 0; c < width; ++c) to[c] = Pair(first[c], second[c]);
  else
    for (int c = 0; c < W; c += N) Put<N>(to + c, Pairs<N>(first + c, second + c));
}
#endif

using Dimensions = ffi::AnyBuffer::Dimensions;

// Sizes as of volumes: an image [B, H, W, C] has one plane, and so has a window [h, w, C, O], whose
// first axis this is. Not in XLA's terms, which copies an array that has such an axis more.
inline std::array<int64_t, 5> OfVolume(const Dimensions& d, bool window = false) {
  if (d.size() == 5) return {d[0], d[1], d[2], d[3], d[4]};
  if (window) return {1, d[0], d[1], d[2], d[3]};
  return {d[0], 1, d[1], d[2], d[3]};
}

constexpr int kParts = 16;  // of work; does not depend on threads, so sums keep their order

// Runs body(part) for every part on XLA's threads and this one, and waits.
template <typename Body>
void Parallel(ffi::ThreadPool& pool, int parts, const Body& body) {
  struct Shared {
    std::atomic<int> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;
  };
  auto shared = std::make_shared<Shared>();
  // A thread that comes too late finds nothing to do and touches nothing but `shared`.
  auto work = [shared, parts, &body] {
    for (int part; (part = shared->next++) < parts;) {
      body(part);
      if (++shared->done == parts) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        shared->finished.notify_all();
      }
    }
  };
  const int helpers = std::min<int>(parts, pool.num_threads()) - 1;
  for (int i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done == parts; });
}

// Calls f with the widest block of channels that fits: (offset, lanes, registers) at compile time.
template <typename F>
void ForChannels(int64_t channels, const F& f) {
  int64_t o = 0;
  for (; o + 2 * kLanes <= channels; o += 2 * kLanes) f.template operator()<kLanes, 2>(o);
  for (; o + kLanes <= channels; o += kLanes) f.template operator()<kLanes, 1>(o);
  for (; o < channels; o += 8) f.template operator()<8, 1>(o);
}

// How XLA calls a function: with its threads, what else is bound, and then these arrays.
inline auto BindToPool() { return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>(); }

template <int kResults, ffi::DataType kType, ffi::DataType... kOthers, typename Binding>
auto Arrays(Binding&& binding) {  // the results are the last; a binding cannot be moved as it is
  using Array = ffi::Buffer<kType>;
  if constexpr (sizeof...(kOthers) == 0)
    return std::move(binding).template Ret<Array>();
  else if constexpr (sizeof...(kOthers) < kResults)
    return Arrays<kResults, kOthers...>(std::move(binding).template Ret<Array>());
  else
    return Arrays<kResults, kOthers...>(std::move(binding).template Arg<Array>());
}

#endif  // JAXSEG_NATIVE_COMMON_H_
