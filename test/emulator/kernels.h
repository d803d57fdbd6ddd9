// The self-test's cases: name, and what went wrong ("" where nothing did). Each .cu file lists its own.
#pragma once
#include <string>
#include <vector>

struct Case {
  const char* name;
  std::string (*run)();
};
extern const std::vector<Case> legal_cases, fault_cases, runtime_cases;

namespace mt::cuda {
/// Launches one fault that a sanitizer alone sees: shared, global, freed or shift.
void crash(const std::string& name);
}  // namespace mt::cuda
