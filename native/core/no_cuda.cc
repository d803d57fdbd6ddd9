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
struct Stream::State {};

Availability availability() { return {false, false, 0, kReason, ""}; }
std::map<std::string, uint64_t> counts() { return {}; }
DeviceInfo device_info(int) { refuse(); }
bool lost(int) { return false; }
Memory memory(int) { return {}; }
void reset_peak(int) {}
Shared::Shared(bool) : before_(false) {}
Shared::~Shared() = default;
size_t graph_bytes(const Graph&) { return 0; }
Stream::Stream(int) { refuse(); }
Stream::~Stream() = default;
void* Stream::handle() const { return nullptr; }
Block Stream::allocate(size_t) { refuse(); }
void Stream::release(Block) noexcept {}
void Stream::upload(void*, const void*, size_t) { refuse(); }
void Stream::download(void*, const void*, size_t) { refuse(); }
void Stream::wait() { refuse(); }
Fault* Stream::fault(const char*, unsigned*) { refuse(); }
void Stream::begin_capture() { refuse(); }
std::shared_ptr<Graph> Stream::end_capture(bool) { refuse(); }
void Stream::retain(const Block&, std::shared_ptr<void>) {}
void Stream::replay(const Graph&) { refuse(); }
Use::Use(Stream&) : before_(nullptr) {}
Use::~Use() = default;
Stream& current() { refuse(); }

}  // namespace mt::cuda
