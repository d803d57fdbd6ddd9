// Counts of calls into the emulated runtime since the process began, for tests and for measuring the host's side.
#pragma once
#include <cstdint>
#include <map>
#include <string>

namespace mt::simt {

struct Counts {
  uint64_t launches = 0;           // of kernels, eager or captured
  uint64_t copies = 0, fills = 0;  // likewise
  uint64_t mallocs = 0, frees = 0;
  uint64_t graphs = 0, nodes = 0, replays = 0;  // graphs instantiated, nodes in all of them, launches of a graph
};
/// The counts by name, and launches by source file, as in "ops/attention.cu".
std::map<std::string, uint64_t> counts();

}  // namespace mt::simt
