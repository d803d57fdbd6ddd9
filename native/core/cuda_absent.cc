// core/cuda.h in a build without CUDA kernels.
#include <stdexcept>

#include "core/arena.h"

namespace mt::cuda {
namespace {
constexpr const char* kReason =
    "this build has no CUDA kernels; build with MT_CUDA=ON where the CUDA toolkit is installed (npm run build:cuda)";
[[noreturn]] void refuse() { throw std::runtime_error(kReason); }
}  // namespace

class Graph {};
struct Queue::State {};

Availability availability() { return {false, false, 0, kReason, ""}; }
std::map<std::string, uint64_t> counts() { return {}; }
DeviceInfo device_info(int) { refuse(); }
bool lost(int) { return false; }
Memory memory(int) { return {}; }
void reset_peak(int) {}
Shared::Shared(bool) : before_(false) {}
Shared::~Shared() = default;
size_t graph_bytes(const Graph&) { return 0; }
Queue::Queue(int) { refuse(); }
Queue::~Queue() = default;
void* Queue::stream() const { return nullptr; }
Block Queue::allocate(size_t) { refuse(); }
void Queue::release(Block) noexcept {}
void Queue::upload(void*, const void*, size_t) { refuse(); }
void Queue::download(void*, const void*, size_t) { refuse(); }
void Queue::wait() { refuse(); }
Fault* Queue::fault(const char*, unsigned*) { refuse(); }
void Queue::begin_capture() { refuse(); }
std::shared_ptr<Graph> Queue::end_capture(bool) { refuse(); }
void Queue::keep(const Block&, std::shared_ptr<void>) {}
void Queue::replay(const Graph&) { refuse(); }
Use::Use(Queue&) : before_(nullptr) {}
Use::~Use() = default;
Queue& current() { refuse(); }

}  // namespace mt::cuda
