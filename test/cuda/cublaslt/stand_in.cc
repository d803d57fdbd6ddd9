// A library with the symbols of cuBLASLt, for the emulator. It checks every call against the real library's
// documentation, and computes on the host in float32. Built by test/cuda/cublaslt.test.ts. A call that the real library
// would reject returns status 7 and prints a sentence to stderr.
//
//   STAND_IN_LOG=FILE           appends a line for every product: sizes, transpositions, type, beta, epilogue,
//   workspace STAND_IN_FAILS=WHAT:STATUS  create, heuristic or product returns that status; heuristic:none finds no
//   algorithm -DWITHOUT_PRODUCT           leaves out cublasLtMatmul -DFOR_DEVICES               leaves out the pointer
//   to the emulator's function, as a library for devices does
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

#ifndef FOR_DEVICES
/// Set by the emulated addon: a function that puts work into a stream.
extern "C" {
__attribute__((visibility("default"))) int (*mt_emulator_enqueue)(void* stream, void (*run)(void*), void* argument,
                                                                  void (*release)(void*)) = nullptr;
}
#endif

namespace {

enum : int { kSuccess = 0, kInvalid = 7, kNotSupported = 15 };
constexpr uint32_t kHandle = 0x48414e44, kOperation = 0x4f504552, kLayout = 0x4c41594f, kPreference = 0x50524546;

struct Context {
  uint32_t kind = kHandle;
};
struct Operation {
  uint32_t kind = kOperation;
  int compute, scale;
  int32_t transpose_a = 0, transpose_b = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  uint32_t kind = kLayout;
  int type;
  uint64_t rows, cols;
  int64_t pitch;
};
struct Preference {
  uint32_t kind = kPreference;
  uint64_t workspace = 0;
  uint32_t reductions = 7, alignment[4] = {256, 256, 256, 256};
};
/// What an algorithm was chosen for.
struct Algorithm {
  uint64_t m, n, k;
  uint64_t kinds;  // types, transpositions, epilogue
  uint64_t alignment;
  uint64_t workspace;
  uint64_t mark, spare;
};
static_assert(sizeof(Algorithm) == 64);
struct Result {
  Algorithm algorithm;
  size_t workspace;
  int status;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Result) == 96);

int invalid(const std::string& why) {
  std::fprintf(stderr, "stand-in: %s\n", why.c_str());
  return kInvalid;
}
template <typename T>
T* checked(void* p, uint32_t kind) {
  return p && reinterpret_cast<uintptr_t>(p) % alignof(T) == 0 && static_cast<T*>(p)->kind == kind ? static_cast<T*>(p)
                                                                                                   : nullptr;
}
/// The status that STAND_IN_FAILS sets for a call; -1: no algorithm; 0: no failure.
int failure(const char* what) {
  const char* fails = std::getenv("STAND_IN_FAILS");
  const size_t n = std::strlen(what);
  if (!fails || std::strncmp(fails, what, n) || fails[n] != ':') return 0;
  return !std::strcmp(fails + n + 1, "none") ? -1 : std::atoi(fails + n + 1);
}

float wide(uint16_t bits) {
  uint32_t w = uint32_t(bits) << 16;
  float f;
  std::memcpy(&f, &w, 4);
  return f;
}
uint16_t rounded(float f) {
  uint32_t w;
  std::memcpy(&w, &f, 4);
  return uint16_t((w + 0x7fff + (w >> 16 & 1)) >> 16);
}
float read(const void* data, int type, uint64_t i) {
  return type == 14 ? wide(static_cast<const uint16_t*>(data)[i]) : static_cast<const float*>(data)[i];
}

/// Checks the matrices as the real library does: returns what is wrong, or "". Sets the product's sizes m, n, k.
std::string wrong(const Operation& o, const Layout& a, const Layout& b, const Layout& c, const Layout& d, uint64_t& m,
                  uint64_t& n, uint64_t& k) {
  if (o.compute != 68 || o.scale != 0) return "a compute type other than float32";
  if (a.type != 14 || b.type != 14) return "factors other than bfloat16";
  if (c.type != d.type || (d.type != 14 && d.type != 0))
    return "c and d of other types than bfloat16 or float32, or of two";
  for (const Layout* l : {&a, &b, &c, &d})
    if (!l->rows || !l->cols || l->pitch < int64_t(l->rows)) return "a layout whose columns overlap, or an empty one";
  m = o.transpose_a ? a.cols : a.rows;
  k = o.transpose_a ? a.rows : a.cols;
  n = o.transpose_b ? b.rows : b.cols;
  if ((o.transpose_b ? b.cols : b.rows) != k) return "factors of two inner sizes";
  if (d.rows != m || d.cols != n || c.rows != m || c.cols != n) return "a result of other sizes than the factors'";
  if (o.epilogue != 1 && o.epilogue != 4) return "an epilogue that is neither none nor a bias";
  if (o.epilogue == 4 && !o.bias) return "a bias that is not given";
  if (o.epilogue == 4 && d.type != 14) return "a bias beside float32, which this project does not ask for";
  return "";
}
uint64_t kinds(const Operation& o, const Layout& d) {
  return uint64_t(d.type) << 16 | uint64_t(o.epilogue) << 2 | uint64_t(o.transpose_a) << 1 | uint64_t(o.transpose_b);
}

/// A product that waits in a stream.
struct Work {
  Operation o;
  Layout a, b, c, d;
  const void *pa, *pb, *pc;
  void* pd;
  float alpha, beta;
  uint64_t m, n, k;
  void* workspace;
  size_t bytes;

  void run() {
    if (bytes) std::memset(workspace, 0xff, bytes);  // nobody else may use it
    // Copies of both factors whose rows run along the inner dimension.
    std::vector<float> left(m * k), right(n * k);
    for (uint64_t i = 0; i < m; ++i)
      for (uint64_t l = 0; l < k; ++l)
        left[i * k + l] = read(pa, 14, o.transpose_a ? i * uint64_t(a.pitch) + l : l * uint64_t(a.pitch) + i);
    for (uint64_t j = 0; j < n; ++j)
      for (uint64_t l = 0; l < k; ++l)
        right[j * k + l] = read(pb, 14, o.transpose_b ? l * uint64_t(b.pitch) + j : j * uint64_t(b.pitch) + l);
    for (uint64_t j = 0; j < n; ++j)
      for (uint64_t i = 0; i < m; ++i) {
        const float *x = &left[i * k], *y = &right[j * k];
        float part[16] = {};
        uint64_t l = 0;
        for (; l + 16 <= k; l += 16)
          for (int e = 0; e < 16; ++e) part[e] += x[l + uint64_t(e)] * y[l + uint64_t(e)];
        float sum = 0;
        for (float p : part) sum += p;
        for (; l < k; ++l) sum += x[l] * y[l];
        float value = alpha * sum;
        if (beta != 0) value += beta * read(pc, c.type, j * uint64_t(c.pitch) + i);
        if (o.epilogue == 4) value += read(o.bias, 14, i);
        const uint64_t at = j * uint64_t(d.pitch) + i;
        if (d.type == 14) static_cast<uint16_t*>(pd)[at] = rounded(value);
        else static_cast<float*>(pd)[at] = value;
      }
  }
};

}  // namespace

API size_t cublasLtGetVersion() { return 130200; }

API int cublasLtCreate(void** handle) {
  if (int status = failure("create")) return status;
  *handle = new Context;
  return kSuccess;
}
API int cublasLtMatmulDescCreate(void** operation, int compute, int scale) {
  *operation = new Operation{kOperation, compute, scale};
  return kSuccess;
}
API int cublasLtMatmulDescSetAttribute(void* operation, int attribute, const void* value, size_t bytes) {
  auto* o = checked<Operation>(operation, kOperation);
  if (!o || !value) return invalid("a description that is none, or no value");
  auto set = [&](auto& to) {
    return bytes == sizeof to ? (std::memcpy(&to, value, bytes), int(kSuccess))
                              : invalid("an attribute of a description with a wrong size");
  };
  switch (attribute) {
    case 3: return set(o->transpose_a);
    case 4: return set(o->transpose_b);
    case 7: return set(o->epilogue);
    case 8: return set(o->bias);
    default: return invalid("an attribute of a description that is not known: " + std::to_string(attribute));
  }
}
API int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t cols, int64_t pitch) {
  *layout = new Layout{kLayout, type, rows, cols, pitch};
  return kSuccess;
}
API int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new Preference;
  return kSuccess;
}
API int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value, size_t bytes) {
  auto* p = checked<Preference>(preference, kPreference);
  if (!p || !value) return invalid("a preference that is none, or no value");
  auto set = [&](auto& to) {
    return bytes == sizeof to ? (std::memcpy(&to, value, bytes), int(kSuccess))
                              : invalid("an attribute of a preference with a wrong size");
  };
  switch (attribute) {
    case 1: return set(p->workspace);
    case 3: return set(p->reductions);
    case 5:
    case 6:
    case 7:
    case 8: return set(p->alignment[attribute - 5]);
    default: return invalid("an attribute of a preference that is not known: " + std::to_string(attribute));
  }
}
API int cublasLtMatmulPreferenceDestroy(void* preference) {
  auto* p = checked<Preference>(preference, kPreference);
  if (!p) return invalid("a preference that is none");
  p->kind = 0;
  delete p;
  return kSuccess;
}

API int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d,
                                       void* preference, int wanted, Result* results, int* found) {
  auto* o = checked<Operation>(operation, kOperation);
  auto* p = checked<Preference>(preference, kPreference);
  Layout* l[4];
  void* given[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (!(l[i] = checked<Layout>(given[i], kLayout))) return invalid("a layout that is none");
  if (!checked<Context>(handle, kHandle) || !o || !p || wanted < 1 || !results || !found)
    return invalid("a choice with a missing argument");
  *found = 0;
  uint64_t m, n, k;
  if (std::string why = wrong(*o, *l[0], *l[1], *l[2], *l[3], m, n, k); !why.empty()) return invalid(why);
  if (p->reductions & ~2u) return invalid("reductions whose reruns may differ");
  for (uint32_t alignment : p->alignment)
    if (alignment != 16) return invalid("an alignment other than the one that is kept");
  if (o->bias && reinterpret_cast<uintptr_t>(o->bias) % 16) return invalid("a bias that is not aligned");
  if (int status = failure("heuristic")) return status < 0 ? kSuccess : status;
  std::memset(results, 0, sizeof *results);
  // Some algorithms need a workspace.
  const uint64_t bytes = k >= 512 && p->workspace >= 4096 ? 4096 : 0;
  results->algorithm = {m, n, k, kinds(*o, *l[3]), 16, bytes, 0x616c676f, 0};
  results->workspace = bytes;
  results->waves = 1;
  *found = 1;
  return kSuccess;
}

#ifndef WITHOUT_PRODUCT
API int cublasLtMatmul(void* handle, void* operation, const void* alpha, const void* a, void* la, const void* b,
                       void* lb, const void* beta, const void* c, void* lc, void* d, void* ld,
                       const Algorithm* algorithm, void* workspace, size_t bytes, void* stream) {
  auto* o = checked<Operation>(operation, kOperation);
  Layout* l[4];
  void* given[] = {la, lb, lc, ld};
  for (int i = 0; i < 4; ++i)
    if (!(l[i] = checked<Layout>(given[i], kLayout))) return invalid("a layout that is none");
  if (!checked<Context>(handle, kHandle) || !o || !alpha || !beta || !a || !b || !c || !d || !algorithm || !stream)
    return invalid("a product with a missing argument");
  uint64_t m, n, k;
  if (std::string why = wrong(*o, *l[0], *l[1], *l[2], *l[3], m, n, k); !why.empty()) return invalid(why);
  const Algorithm& f = *algorithm;
  if (f.mark != 0x616c676f || f.m != m || f.n != n || f.k != k || f.kinds != kinds(*o, *l[3]))
    return invalid("an algorithm that was chosen for another product");
  for (const void* x : {a, b, c, static_cast<const void*>(d), o->bias})
    if (reinterpret_cast<uintptr_t>(x) % f.alignment) return invalid("a matrix that is less aligned than was promised");
  for (int i = 0; i < 4; ++i)
    if (uint64_t(l[i]->pitch) * (l[i]->type == 14 ? 2 : 4) % f.alignment)
      return invalid("columns that are less aligned than was promised");
  if (bytes < f.workspace || (bytes && !workspace) || reinterpret_cast<uintptr_t>(workspace) % 256)
    return invalid("too little memory, or memory that is not aligned");
  if (c == d && l[2]->pitch != l[3]->pitch) return invalid("a result in place of another layout");
  if (int status = failure("product")) return status;
  const float x = *static_cast<const float*>(alpha), y = *static_cast<const float*>(beta);
  if (const char* path = std::getenv("STAND_IN_LOG"))
    if (FILE* log = std::fopen(path, "a")) {
      std::fprintf(log, "%s%s m=%llu n=%llu k=%llu %s beta=%g%s%s workspace=%zu\n", o->transpose_a ? "T" : "N",
                   o->transpose_b ? "T" : "N", (unsigned long long)m, (unsigned long long)n, (unsigned long long)k,
                   l[3]->type == 14 ? "bf16" : "f32", double(y), c == d ? " in place" : "",
                   o->epilogue == 4 ? " bias" : "", bytes);
      std::fclose(log);
    }
#ifndef FOR_DEVICES
  auto* work = new Work{*o, *l[0], *l[1], *l[2], *l[3], a, b, c, d, x, y, m, n, k, workspace, bytes};
  return mt_emulator_enqueue(
             stream, [](void* w) { static_cast<Work*>(w)->run(); }, work, [](void* w) { delete static_cast<Work*>(w); })
             ? 13
             : kSuccess;
#else
  return kSuccess;
#endif
}
#endif
