// Entry points by name, with what their parameters are: a launch whose arguments are of other kinds is refused, where CUDA
// would read garbage.
#pragma once

#include <atomic>
#include <cstddef>
#include <utility>

namespace emulate {

// As `Arg` of the launcher in Rust has them.
enum class Kind : uint32_t { Pointer, U64, U32, F32 };

template <typename T> struct KindOf;
template <typename T> struct KindOf<T *> { static constexpr Kind value = Kind::Pointer; };
template <> struct KindOf<unsigned long long> { static constexpr Kind value = Kind::U64; };
template <> struct KindOf<uint32_t> { static constexpr Kind value = Kind::U32; };
template <> struct KindOf<float> { static constexpr Kind value = Kind::F32; };

struct Entry {
  const char *name;
  const Kind *kinds;
  size_t count;
  void (*kernel)();
  // Calls the kernel with the values that `args` points to.
  void (*call)(void (*kernel)(), void *const *args);
  Entry *next;
  std::atomic<size_t> launches;
};

// Latest first.
extern Entry *entries;

template <typename... A> struct Signature {
  static constexpr Kind kinds[] = {KindOf<A>::value...};

  template <size_t... I> static void spread(void (*kernel)(), void *const *args, std::index_sequence<I...>) {
    reinterpret_cast<void (*)(A...)>(kernel)(*static_cast<A *>(args[I])...);
  }
  static void call(void (*kernel)(), void *const *args) { spread(kernel, args, std::index_sequence_for<A...>{}); }
};
template <typename... A> constexpr Kind Signature<A...>::kinds[];

struct Registered {
  Entry entry;
  template <typename... A>
  Registered(const char *name, void (*kernel)(A...))
      : entry{name,  Signature<A...>::kinds, sizeof...(A), reinterpret_cast<void (*)()>(kernel), Signature<A...>::call,
              entries, {0}} {
    entries = &entry;
  }
};

} // namespace emulate

#define ENTRY(name, ...)                                                                                               \
  static void name(__VA_ARGS__);                                                                                       \
  static emulate::Registered entry_##name(#name, name);                                                                \
  static void name(__VA_ARGS__)
