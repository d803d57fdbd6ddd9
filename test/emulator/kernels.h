// The self-test's cases: a name, and a function that returns what went wrong ("" where nothing did). Each .cu file
// lists its own.
#pragma once
#include <string>
#include <vector>

struct Case {
  const char* name;
  std::string (*run)();
};
extern const std::vector<Case> legal_cases, fault_cases, runtime_cases;

namespace mt::cuda {
/// Launches one fault that only a sanitizer finds: shared, global, freed or shift.
void crash(const std::string& name);
}  // namespace mt::cuda
