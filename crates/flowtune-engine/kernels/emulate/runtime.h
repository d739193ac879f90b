// Runs a grid on the CPU: block after block, of a block warp after warp, each as far as it gets without the others, and the
// lanes of a warp in turn; all in an order that looks random. So warps are as far apart as the barriers let them be, and a
// missing one shows. Included once, by the file that the build script makes.
#pragma once

#include <cstdio>
#include <memory>
#include <vector>

#include <ucontext.h>

#include "cuda.h"

namespace emulate {

thread_local Index thread_index, block_index, block_dim, grid_dim;
Entry *entries = nullptr;

namespace {

constexpr size_t STACK = 64 << 10;
constexpr uint32_t LANES = 32;

enum class State { Ready, Barrier, Exchange, Done };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  State state;
  uint64_t value;
  uint32_t source;
};

struct Block {
  std::vector<std::unique_ptr<Fiber>> fibers; // kept from one block to the next
  ucontext_t scheduler;
  Fiber *running;
  const Entry *entry;
  void *const *args;
};
thread_local Block block;

uint32_t random_below(uint32_t count) {
  static thread_local uint64_t state = 1;
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<uint32_t>((state >> 33) % count);
}

// Numbers below `count` in any order.
std::vector<uint32_t> shuffled(uint32_t count) {
  std::vector<uint32_t> order(count);
  for (uint32_t i = 0; i < count; ++i) {
    const uint32_t at = random_below(i + 1);
    order[i] = order[at];
    order[at] = i;
  }
  return order;
}

void wait(State state) {
  Fiber *self = block.running;
  self->state = state;
  swapcontext(&self->context, &block.scheduler);
}

void body() {
  block.entry->call(block.entry->kernel, block.args);
  wait(State::Done);
}

void start(Fiber &fiber) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = STACK;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
  fiber.state = State::Ready;
}

// Lets go a warp whose lanes have all come to an exchange.
bool exchanged(uint32_t first) {
  for (uint32_t lane = 0; lane < LANES; ++lane)
    if (block.fibers[first + lane]->state != State::Exchange) return false;
  uint64_t values[LANES];
  for (uint32_t lane = 0; lane < LANES; ++lane) values[lane] = block.fibers[first + lane]->value;
  for (uint32_t lane = 0; lane < LANES; ++lane) {
    Fiber &fiber = *block.fibers[first + lane];
    fiber.value = values[fiber.source];
    fiber.state = State::Ready;
  }
  return true;
}

uint32_t count(State state, uint32_t threads) {
  uint32_t found = 0;
  for (uint32_t i = 0; i < threads; ++i) found += block.fibers[i]->state == state;
  return found;
}

// Runs a warp until each of its threads waits at a barrier, has ended, or waits for lanes that do not come.
void run_warp(uint32_t first) {
  do {
    for (uint32_t lane : shuffled(LANES)) {
      block.running = block.fibers[first + lane].get();
      if (block.running->state != State::Ready) continue;
      thread_index.x = first + lane;
      swapcontext(&block.scheduler, &block.running->context);
    }
  } while (exchanged(first));
}

// Null, or why the block cannot go on.
const char *run_block(uint32_t threads) {
  while (block.fibers.size() < threads) block.fibers.emplace_back(new Fiber);
  for (uint32_t i = 0; i < threads; ++i) start(*block.fibers[i]);
  for (;;) {
    for (uint32_t warp : shuffled(threads / LANES)) run_warp(warp * LANES);
    if (count(State::Done, threads) == threads) return nullptr;
    if (count(State::Barrier, threads) != threads) return "threads of a block wait for each other in vain";
    for (uint32_t i = 0; i < threads; ++i) block.fibers[i]->state = State::Ready;
  }
}

Entry *find(const char *name) {
  for (Entry *entry = entries; entry; entry = entry->next)
    if (std::strcmp(entry->name, name) == 0) return entry;
  return nullptr;
}

} // namespace

void barrier() { wait(State::Barrier); }

uint64_t exchange(uint64_t value, uint32_t source) {
  Fiber *self = block.running;
  self->value = value;
  self->source = source;
  wait(State::Exchange);
  return self->value;
}

} // namespace emulate

// Runs kernel `name` in a grid of `blocks` blocks of `threads` threads; of the blocks, only the last `run`. Null, or what is
// wrong, in a string that stays.
extern "C" const char *flowtune_emulate(const char *name, uint32_t blocks, uint32_t threads, uint32_t run,
                                        void *const *args, const uint32_t *kinds, size_t count) {
  using namespace emulate;
  Entry *entry = find(name);
  if (!entry) return "there is no such kernel";
  if (entry->count != count) return "the kernel has another number of parameters";
  for (size_t i = 0; i < count; ++i)
    if (static_cast<uint32_t>(entry->kinds[i]) != kinds[i]) return "the kernel has parameters of other kinds";
  if (threads == 0 || threads > 1024 || threads % LANES != 0) return "a block has 32 to 1024 threads, whole warps";
  ++entry->launches;
  block.entry = entry;
  block.args = args;
  block_dim.x = threads;
  grid_dim.x = blocks;
  const uint32_t first = blocks - (run < blocks ? run : blocks);
  for (uint32_t i : shuffled(blocks - first)) {
    block_index.x = first + i;
    if (const char *wrong = run_block(threads)) return wrong;
  }
  return nullptr;
}

// Name of kernel `at` and how often it was launched; null when there are fewer.
extern "C" const char *flowtune_emulated(size_t at, size_t *launches) {
  const emulate::Entry *entry = emulate::entries;
  for (; entry && at > 0; --at) entry = entry->next;
  if (!entry) return nullptr;
  *launches = entry->launches;
  return entry->name;
}
