// What the operations share: registers of floats, blocks of channels, work on XLA's threads.

#ifndef JAXSEG_NATIVE_COMMON_H_
#define JAXSEG_NATIVE_COMMON_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

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

template <int kArguments, int kResults, typename Binding>
auto Arrays(Binding&& binding) {  // kResults at least 1; a binding cannot be moved as it is
  using Array = ffi::Buffer<ffi::F32>;
  if constexpr (kArguments > 0)
    return Arrays<kArguments - 1, kResults>(std::move(binding).template Arg<Array>());
  else if constexpr (kResults > 1)
    return Arrays<0, kResults - 1>(std::move(binding).template Ret<Array>());
  else
    return std::move(binding).template Ret<Array>();
}

#endif  // JAXSEG_NATIVE_COMMON_H_
