#include "kernels/cuda/cublaslt.h"

#include "core/error.h"

#if defined(__linux__)

#include <dlfcn.h>
#include <glob.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace mt::cuda::cublaslt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};  // the newest first
constexpr size_t kOldest = 120000;                                            // version

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

/// A path escaped for glob(), so that none of its characters is a pattern.
std::string literal(const std::string& path) {
  std::string out;
  for (char c : path) {
    if (std::string_view("*?[]\\").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

struct Found {
  std::vector<std::string> files;
  void add(const std::string& file) {
    if (std::find(files.begin(), files.end(), file) == files.end()) files.push_back(file);
  }
  /// Adds the libraries in the folders that match a pattern.
  void look(const std::string& folders) {
    for (const char* name : kNames) {
      glob_t g{};
      if (glob((folders + "/" + name).c_str(), 0, nullptr, &g) == 0)
        for (size_t i = 0; i < g.gl_pathc; ++i) add(g.gl_pathv[i]);
      globfree(&g);
    }
  }
  void toolkit(const std::string& pattern) {
    look(pattern + "/lib64");
    look(pattern + "/targets/*/lib");
  }
  /// Adds those in the packages of a Python that is installed under a prefix.
  void python(const std::string& pattern) {
    for (const char* packages :
         {"/lib/python3*/site-packages", "/lib/python3*/dist-packages", "/lib64/python3*/site-packages"})
      look(pattern + packages + "/nvidia/*/lib");
  }
};

}  // namespace

std::vector<std::string> candidates() {
  if (std::string file = variable("MT_CUBLASLT"); !file.empty()) return {file};
  Found found;
  for (const char* name : kNames) found.add(name);
  for (const char* name : {"CUDA_HOME", "CUDA_PATH"})
    if (std::string folder = variable(name); !folder.empty()) found.toolkit(literal(folder));
  found.toolkit("/usr/local/cuda*");
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"})
    if (std::string folder = variable(name); !folder.empty()) found.python(literal(folder));
  const std::string path = variable("PATH");
  for (size_t at = 0; at < path.size();) {
    const size_t end = std::min(path.find(':', at), path.size());
    const fs::path folder = path.substr(at, end - at), program = folder / "python3";
    at = end + 1;
    std::error_code failed;
    if (folder.empty() || !fs::exists(program, failed)) continue;
    const std::string prefix = literal(folder.parent_path().string());
    // In a virtual environment, python3 is a link to the program: the packages lie beside the link. A shim of pyenv
    // runs one of its versions.
    found.python(folder.filename() == "shims" ? prefix + "/versions/*" : prefix);
    if (const fs::path real = fs::canonical(program, failed); !failed)
      found.python(literal(real.parent_path().parent_path().string()));
  }
  if (std::string home = variable("HOME"); !home.empty()) found.python(literal(home) + "/.local");
  for (const char* prefix : {"/usr/local", "/usr"}) found.python(prefix);
  return found.files;
}

const Library* open(std::string& why, const char* required) {
  std::string failures;
  const std::vector<std::string> files = candidates();
  for (const std::string& name : files) {
    auto fails = [&](const std::string& reason) { failures += (failures.empty() ? "" : "; ") + reason; };
    void* file = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!file) {
      const std::string error = dlerror();
      // A name that the loader does not find is no failure: the folders come after it.
      const bool unknown = name.find('/') == std::string::npos && error.find("No such file") != std::string::npos;
      if (!unknown || files.size() == 1) fails(error);
      continue;
    }
    auto library = new Library{};
    const char* missing = required && !dlsym(file, required) ? required : nullptr;
#define MT_FIND(function, result, arguments)                                         \
  library->function = reinterpret_cast<result(*) arguments>(dlsym(file, #function)); \
  if (!library->function && !missing) missing = #function;
    MT_CUBLASLT_FUNCTIONS(MT_FIND)
#undef MT_FIND
    const size_t version = missing ? 0 : library->cublasLtGetVersion();
    if (!missing && version >= kOldest) {
      link_map* map = nullptr;
      library->path = dlinfo(file, RTLD_DI_LINKMAP, &map) == 0 && map && *map->l_name ? map->l_name : name;
      library->version = text(version / 10000, ".", version / 100 % 100, ".", version % 100);
      library->file = file;
      why.clear();
      return library;  // for the life of the process
    }
    fails(missing ? text(name, " has no ", missing)
                  : text(name, " is cuBLASLt ", version, ", and 12 or 13 is expected"));
    delete library;
    dlclose(file);
  }
  why = !failures.empty()
            ? failures
            : text(kNames[0], " or ", kNames[1],
                   " is neither known to the loader nor in CUDA_HOME, /usr/local/cuda or a package of Python");
  return nullptr;
}

}  // namespace mt::cuda::cublaslt

#else

namespace mt::cuda::cublaslt {
std::vector<std::string> candidates() { return {}; }
const Library* open(std::string& why, const char*) {
  why = "it is looked for on Linux alone";
  return nullptr;
}
}  // namespace mt::cuda::cublaslt

#endif
