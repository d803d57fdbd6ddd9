#include "emulator/simt.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <exception>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "core/error.h"

namespace mt::simt {

constinit thread_local Thread* cur = nullptr;

namespace {
std::atomic<Order::Kind> order_kind{Order::forward};
std::atomic<uint64_t> order_seed{0};
constexpr unsigned char kGuardByte = 0xa5;
constexpr size_t kGuardBytes = 128;

struct Released {
  void operator()(char* p) const { std::free(p); }
};

/// Dynamic shared memory of exactly the requested size: the address sanitizer reports one byte more, the guard a write
/// near the end.
class Shared {
 public:
  explicit Shared(size_t bytes)
      : bytes_(bytes),
        whole_((bytes + 127) / 128 * 128 + kGuardBytes),
        p_(static_cast<char*>(std::aligned_alloc(128, whole_))) {
    if (!p_) throw std::bad_alloc();
    std::memset(p_.get() + bytes_, kGuardByte, whole_ - bytes_);
    poison(p_.get() + bytes_, whole_ - bytes_);
  }
  ~Shared() { unpoison(p_.get(), whole_); }
  char* fresh() {
    std::memset(p_.get(), 0xff, bytes_);
    return p_.get();
  }
  bool intact() const {
    return SIMT_ASAN || std::all_of(p_.get() + bytes_, p_.get() + whole_,
                                    [](char c) { return static_cast<unsigned char>(c) == kGuardByte; });
  }

 private:
  size_t bytes_, whole_;
  std::unique_ptr<char, Released> p_;
};

/// Runs one block after the other on the calling OS thread. Keeps its fibers: mapping stacks costs more than a small
/// block.
class Engine {
 public:
  void grid(const Launch& l) {
    block_.grid = l.grid;
    block_.dim = l.block;
    body_ = &l.body;
    order_ = order_kind;
    random_.seed(order_seed);
    const unsigned n = l.block.x * l.block.y * l.block.z;
    if (threads_.size() < n) threads_.resize(n), warps_.resize((n + 31) / 32);
    sequence_.resize(n);
    std::iota(sequence_.begin(), sequence_.end(), 0u);
    if (order_ == Order::reversed) std::reverse(sequence_.begin(), sequence_.end());

    const uint64_t blocks = uint64_t(l.grid.x) * l.grid.y * l.grid.z;
    uint64_t step = 1, at = 0;  // a walk over all blocks: a stride without a common divisor with their number
    if (order_ == Order::reversed) step = blocks - 1, at = blocks - 1;
    if (order_ == Order::random) {
      at = random_() % blocks;
      do step = random_() % blocks + 1;
      while (std::gcd(step, blocks) != 1);
    }
    Shared shared(l.shared_bytes);
    for (uint64_t i = 0; i < blocks; ++i, at = (at + step) % blocks) {
      block_.idx = {unsigned(at % l.grid.x), unsigned(at / l.grid.x % l.grid.y),
                    unsigned(at / (uint64_t(l.grid.x) * l.grid.y))};
      block_.shared = shared.fresh();
      run_block();
      if (!shared.intact())
        throw fault("block " + coordinates(block_.idx) + " wrote past the end of its dynamic shared memory of " +
                    std::to_string(l.shared_bytes) + " bytes");
    }
  }

  void finish(Thread& t) {
    t.done = true;
    ++work.threads;
    // A finished thread no longer counts: others may have waited for it alone.
    if (Meeting& b = block_.barrier; --block_.live == b.arrived && b.arrived) b.complete();
    t.warp->live &= ~(1u << t.lane);
    for (Meeting& m : t.warp->meetings)
      if (m.arrived && int(m.arrived) == std::popcount(m.mask & t.warp->live)) m.complete();
  }

  /// `from` waits: switches to the next thread, or to the scheduler at the end of a pass.
  void pass_on(Fiber* from) {
    if (Fiber* next = pick()) from->hand_over(*next);
    else from->suspend();
  }

  static std::string coordinates(uint3 v) { return mt::text("(", v.x, ",", v.y, ",", v.z, ")"); }

  Work work{};

 private:
  void run_block() {
    const unsigned n = unsigned(sequence_.size());
    block_.live = n;
    uint3 tid{0, 0, 0};
    for (unsigned i = 0; i < n; ++i) {
      Thread& t = threads_[i];
      t.tid = tid;
      t.rank = i;
      t.lane = i % 32;
      t.block = &block_;
      t.warp = &warps_[i / 32];
      t.fiber = nullptr;
      t.wait = nullptr;
      t.done = false;
      t.copies.clear();
      t.group = 0;
      if (++tid.x == block_.dim.x) {
        tid.x = 0;
        if (++tid.y == block_.dim.y) tid.y = 0, ++tid.z;
      }
    }
    for (unsigned i = 0; i < n; i += 32) warps_[i / 32].live = n - i < 32 ? (1u << (n - i)) - 1 : ~0u;

    while (block_.live && !error_) {
      if (order_ == Order::random) std::shuffle(sequence_.begin(), sequence_.end(), random_);
      position_ = 0;
      moved_ = false;
      while (Fiber* f = pick()) f->resume();
      cur = nullptr;
      if (!moved_) error_ = std::make_exception_ptr(fault(deadlock()));
    }
    if (error_) abandon();
  }

  /// The fiber to run next: that of the next thread of this pass that need not wait, or a free one where that thread
  /// has not started. Null at the end of the pass.
  Fiber* pick() {
    while (position_ < sequence_.size() && !error_) {
      Thread& t = threads_[sequence_[position_]];
      if (!t.done && t.fiber && *t.wait == t.seen) ++position_;
      else if (t.done) ++position_;
      else {
        moved_ = true;
        ++work.switches;
        if (t.fiber) return ++position_, cur = &t, t.fiber;
        if (idle_.empty()) idle_.push_back(fibers_.emplace_back(std::make_unique<Fiber>(&Engine::enter, this)).get());
        running_ = idle_.back();
        idle_.pop_back();
        return running_;
      }
    }
    return nullptr;
  }

  /// The next thread of this pass, if it has not started.
  Thread* fresh() {
    if (position_ == sequence_.size() || error_ || threads_[sequence_[position_]].fiber) return nullptr;
    return &threads_[sequence_[position_++]];
  }

  static void enter(void* self) {
    Engine& e = *static_cast<Engine*>(self);
    Fiber* me = e.running_;
    for (;;) {
      while (Thread* next = e.fresh()) {
        Thread& t = *next;
        t.fiber = me;
        cur = &t;
        try {
          (*e.body_)();
          e.finish(t);
        } catch (const fault& f) {
          e.error_ = std::make_exception_ptr(fault(std::string(f.what()) + ", in " + e.whose(t)));
        } catch (const std::exception& x) {
          e.error_ = std::make_exception_ptr(fault(std::string("exception \"") + x.what() + "\" in " + e.whose(t)));
        } catch (...) { e.error_ = std::make_exception_ptr(fault("exception in " + e.whose(t))); }
      }
      e.idle_.push_back(me);
      e.pass_on(me);
    }
  }

  std::string whose(const Thread& t) const {
    return "thread " + coordinates(t.tid) + " of block " + coordinates(block_.idx);
  }

  std::string deadlock() const {
    std::map<std::string, std::pair<unsigned, const Thread*>> waiting;
    for (size_t i = 0; i < sequence_.size(); ++i)
      if (const Thread& t = threads_[i]; !t.done) {
        auto& [count, first] = waiting[t.at.text()];
        if (!count++) first = &t;
      }
    std::string s = "deadlock in block " + coordinates(block_.idx);
    for (auto& [site, who] : waiting)
      s += "; " + std::to_string(who.first) + (who.first == 1 ? " thread waits at " : " threads wait at ") + site +
           " (first: " + coordinates(who.second->tid) + ")";
    return s;
  }

  /// The fibers of a failed block are suspended inside its kernel and cannot be reused.
  [[noreturn]] void abandon() {
    auto error = std::exchange(error_, nullptr);
    idle_.clear();
    fibers_.clear();
    warps_.assign(warps_.size(), {});
    block_.barrier = {};
    std::rethrow_exception(error);
  }

  Block block_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<unsigned> sequence_;
  size_t position_ = 0;  // in the sequence, within a pass
  bool moved_ = false;   // a thread made progress in this pass
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_;
  Fiber* running_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  std::exception_ptr error_;
  Order::Kind order_ = Order::forward;
  std::mt19937_64 random_;
};

Engine& engine() {
  static thread_local Engine e;
  return e;
}

void join(Meeting& m, Site site, unsigned expected) {
  Thread& t = *cur;
  if (++m.arrived == expected) return m.complete();
  t.at = site;
  t.wait = &m.generation;
  t.seen = m.generation;
  engine().pass_on(t.fiber);
}

const char* base(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

}  // namespace

bool Site::operator==(const Site& o) const {
  const auto same = [](const char* a, const char* b) { return a == b || !std::strcmp(a, b); };
  return at.line() == o.at.line() && at.column() == o.at.column() && same(op, o.op) &&
         same(at.file_name(), o.at.file_name());
}
std::string text(const std::source_location& at) {
  return std::string(base(at.file_name())) + ":" + std::to_string(at.line()) + ":" + std::to_string(at.column());
}
std::string Site::text() const { return std::string(op) + " " + simt::text(at); }

void Meeting::complete() {
  if (all) all(slot, site);
  std::memset(slot, 0, sizeof slot);
  arrived = 0;
  ++generation;
}

void sync_block(Site site) {
  Meeting& b = cur->block->barrier;
  if (!b.arrived) b.site = site;
  else if (!(b.site == site)) throw fault("block diverged: " + site.text() + " meets " + b.site.text());
  join(b, site, cur->block->live);
}

bool sync_block_or(Site site, bool yes) {
  Block& b = *cur->block;
  bool& some = b.some[b.barrier.generation % 2];  // read by all before the next barrier but one
  some = (b.barrier.arrived && some) || yes;
  sync_block(site);
  return some;
}

void meet(Site site, unsigned mask, void* mine, void (*all)(void**, const Site&)) {
  Thread& t = *cur;
  if (!(mask >> t.lane & 1)) throw fault(site.text() + ": lane " + std::to_string(t.lane) + " is not in its own mask");
  auto& meetings = t.warp->meetings;
  auto m = std::find_if(meetings.begin(), meetings.end(), [&](const Meeting& x) { return x.mask == mask; });
  if (m == meetings.end()) m = meetings.emplace(m), m->mask = mask;
  if (!m->arrived) m->site = site, m->all = all;
  else if (!(m->site == site)) throw fault("warp diverged: " + site.text() + " meets " + m->site.text());
  m->slot[t.lane] = mine;
  join(*m, site, unsigned(std::popcount(mask & t.warp->live)));
}

std::string refused(const Launch& l) {
  const dim3 &g = l.grid, &b = l.block;
  if (!b.x || !b.y || !b.z || b.x > 1024 || b.y > 1024 || b.z > 64 || uint64_t(b.x) * b.y * b.z > 1024)
    return "a block of " + Engine::coordinates({b.x, b.y, b.z}) + " threads";
  if (!g.x || !g.y || !g.z || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535)
    return "a grid of " + Engine::coordinates({g.x, g.y, g.z}) + " blocks";
  if (l.shared_bytes > 227 * 1024) return std::to_string(l.shared_bytes) + " bytes of dynamic shared memory";
  return "";
}

void run(const Launch& l) { engine().grid(l); }

void set_order(Order order) {
  order_kind = order.kind;
  order_seed = order.seed;
}
Work work_done() { return engine().work; }

}  // namespace mt::simt
