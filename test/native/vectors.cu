// How CUDA kernels move elements, run on the emulator: division by multiplication at its limits, the width and the
// index type that a walk chooses, both index types on the same views, and how many threads the operators take for
// aligned and other views. Exits with 1 and prints what failed.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "emulator/simt.h"
#include "kernels/cuda/strided.h"
#include "ops/copy.h"
#include "ops/elementwise.h"
#include "ops/patchify.h"
#include "ops/reduce.h"
#include "ops/swap.h"

namespace {

using namespace mt;
using namespace mt::cuda;

int checks = 0, failures = 0;
template <typename... T>
void expect(bool ok, const char* format, T... values) {
  ++checks;
  if (ok) return;
  ++failures;
  std::printf("FAILED ");
  std::printf(format, values...);
  std::printf("\n");
}

// ---- division ----

void divisions() {
  constexpr uint32_t most = (1u << 31) - 1;
  std::vector<uint32_t> divisors;
  for (uint32_t d = 1; d <= 1100; ++d) divisors.push_back(d);
  for (int b = 10; b <= 31; ++b)
    for (int64_t d = (int64_t(1) << b) - 2; d <= (int64_t(1) << b) + 2; ++d)
      if (d <= int64_t(1) << 31) divisors.push_back(uint32_t(d));
  for (uint32_t d : {32001u, 1408u, 11008u, 641u, 65537u, 715827883u, 1431655765u, most / 3, most / 2, most / 2 + 1})
    divisors.push_back(d);
  std::mt19937 random(7);
  for (uint32_t d : divisors) {
    const Divider<uint32_t> by(d);
    std::vector<uint32_t> numbers{0, 1, most, most - 1, most / 2, most / 2 + 1};
    for (uint32_t q : {1u, 2u, 3u, most / d, most / d - 1, most / d / 2})
      for (int64_t n = int64_t(q) * d - 1; n <= int64_t(q) * d + 1; ++n)
        if (n >= 0 && n <= most) numbers.push_back(uint32_t(n));
    for (int i = 0; i < 200; ++i) numbers.push_back(random() & most);
    bool right = true;
    for (uint32_t n : numbers) right = right && by.quotient(n) == n / d && by.remainder(n) == n % d;
    expect(right, "division by %u", d);
  }
  static_assert(Divider<uint32_t>(7).quotient(most) == most / 7);
}

// ---- plans ----

View view(DType type, std::vector<int64_t> shape, std::vector<int64_t> stride) {
  View v;
  v.dtype = type;
  v.rank = int(shape.size());
  for (int i = 0; i < v.rank; ++i) v.shape[i] = shape[size_t(i)], v.stride[i] = stride[size_t(i)];
  return v;
}
View dense(DType type, std::vector<int64_t> shape) {
  std::vector<int64_t> stride(shape.size());
  int64_t n = 1;
  for (size_t i = shape.size(); i-- > 0; n *= shape[i]) stride[i] = n;
  return view(type, shape, stride);
}
void plan(const char* what, const View& x, const View& y, uintptr_t from, uintptr_t to, int width, int64_t count,
          bool fits) {
  const size_t a = size_of(x.dtype), b = size_of(y.dtype);
  const Walk w = plan_walk(Loop(x, y), from, to, a, b, int(16 / std::min(a, b)));
  expect(w.width == width && w.count == count && w.short_index == fits,
         "%s: %d elements at a time, %lld accesses, short indices %d", what, w.width, (long long)w.count,
         int(w.short_index));
}
void plans() {
  const DType b = DType::bf16, f = DType::f32;
  plan("rows of bfloat16", dense(b, {3, 40}), dense(b, {3, 40}), 256, 512, 8, 15, true);
  plan("one element off", dense(b, {3, 40}), dense(b, {3, 40}), 258, 512, 1, 120, true);
  plan("four elements off", dense(b, {3, 40}), dense(b, {3, 40}), 256, 520, 4, 30, true);
  plan("a tail", dense(b, {41}), dense(b, {41}), 256, 512, 1, 41, true);
  plan("rows of 12 cut from rows of 16", view(b, {5, 12}, {16, 1}), dense(b, {5, 12}), 256, 512, 4, 15, true);
  plan("rows of 16 cut from rows of 18", view(b, {5, 16}, {18, 1}), dense(b, {5, 16}), 256, 512, 2, 40, true);
  plan("rows of 16 cut from rows of 17", view(b, {5, 16}, {17, 1}), dense(b, {5, 16}), 256, 512, 1, 80, true);
  plan("turned", view(b, {16, 16}, {1, 16}), dense(b, {16, 16}), 256, 512, 1, 256, true);
  plan("a row repeated", view(f, {6, 8}, {0, 1}), dense(f, {6, 8}), 256, 512, 4, 12, true);
  plan("an element repeated", view(f, {6, 8}, {1, 0}), dense(f, {6, 8}), 256, 512, 1, 48, true);
  plan("heads swapped", view(b, {2, 5, 3, 64}, {960, 64, 320, 1}), dense(b, {2, 5, 3, 64}), 256, 512, 8, 240, true);
  plan("float32 to bfloat16", dense(f, {3, 40}), dense(b, {3, 40}), 256, 512, 8, 15, true);
  plan("float32", dense(f, {3, 40}), dense(f, {3, 40}), 256, 512, 4, 30, true);
  plan("nothing", dense(f, {0, 40}), dense(f, {0, 40}), 256, 512, 4, 0, true);
  const int64_t two31 = int64_t(1) << 31;
  plan("2^31 − 1 elements", dense(b, {two31 - 1}), dense(b, {two31 - 1}), 256, 512, 1, two31 - 1, true);
  plan("2^31 elements", view(b, {two31, 1}, {1, 1}), dense(b, {two31, 1}), 258, 512, 1, two31, false);
  plan("2^31 elements, eight at a time", dense(b, {two31}), dense(b, {two31}), 256, 512, 8, two31 / 8, true);
  plan("few elements far apart", view(b, {3, 1}, {two31 / 2, 1}), dense(b, {3, 1}), 256, 512, 1, 3, false);
  plan("few elements not quite so far apart", view(b, {3, 1}, {two31 / 2 - 1, 1}), dense(b, {3, 1}), 256, 512, 1, 3,
       true);
}

// ---- tensors; the emulator's memory is the host's ----

View filled(View v, int64_t offset = 0) {
  int64_t last = offset + 1;
  for (int i = 0; i < v.rank; ++i) last += (v.shape[i] - 1) * v.stride[i];
  v.storage = std::make_shared<Storage>(size_t(last) * size_of(v.dtype) + 16);
  v.storage->assign_device(nullptr);
  v.storage->ensure();
  v.offset = offset;
  auto* bytes = static_cast<unsigned char*>(v.storage->data());
  for (int64_t i = 0; i < last; ++i) {
    const float x = float((i * 7919) % 257) / 16;
    const bf16 narrow(x);
    std::memcpy(bytes + i * int64_t(size_of(v.dtype)), v.dtype == DType::f32 ? static_cast<const void*>(&x) : &narrow,
                size_of(v.dtype));
  }
  return v;
}
/// A view as the type of an operator's parameter.
struct as {
  const View& view;
  explicit as(const View& v) : view(v) {}
  template <typename Parameter>
    requires std::is_base_of_v<View, Parameter>
  operator Parameter() const {
    Parameter out;
    static_cast<View&>(out) = view;
    return out;
  }
};
/// Bytes of a dense view.
std::vector<unsigned char> bytes(const View& v) {
  std::vector<unsigned char> out(size_t(v.numel()) * size_of(v.dtype));
  if (!out.empty())
    std::memcpy(out.data(), static_cast<const char*>(v.storage->data()) + v.offset * int64_t(size_of(v.dtype)),
                out.size());
  return out;
}
template <typename F>
int64_t threads_of(F f) {
  const auto before = simt::work_done().threads;
  f();
  current().wait();
  return int64_t(simt::work_done().threads - before);
}
int64_t padded(int64_t n) { return (n + kThreads - 1) / kThreads * kThreads; }

struct Twice {
  template <typename T>
  __device__ T operator()(T v) const {
    return T(2 * float(v));
  }
};

/// Both index types give the same bytes.
void indices() {
  for (int64_t offset : {0, 1, 4}) {
    const View x = filled(view(DType::bf16, {3, 5, 2, 24}, {240, 24, 120, 1}), offset),
               y = filled(dense(DType::bf16, {3, 5, 2, 24})), z = filled(dense(DType::bf16, {3, 5, 2, 24}));
    Walk w = plan_walk(Loop(x, y), uintptr_t(x.data<bf16>()), uintptr_t(y.data<bf16>()), 2, 2, 1);
    launch_walk<bf16, bf16, 1>((const bf16*)x.data<bf16>(), y.data<bf16>(), w, Twice{});
    w.short_index = false;
    launch_walk<bf16, bf16, 1>((const bf16*)x.data<bf16>(), z.data<bf16>(), w, Twice{});
    current().wait();
    expect(bytes(y) == bytes(z), "64-bit indices, offset %lld", (long long)offset);
    walk<bf16, bf16>(x, z, Twice{});
    current().wait();
    expect(bytes(y) == bytes(z), "packs, offset %lld", (long long)offset);
    bool right = true;
    for (int64_t i = 0; i < y.numel(); ++i) {
      const int64_t c = i % 24, k = i / 24 % 2, j = i / 48 % 5, b = i / 240;
      right = right && float(y.data<bf16>()[i]) == 2 * float(x.data<bf16>()[b * 240 + j * 24 + k * 120 + c]);
    }
    expect(right, "the elements, offset %lld", (long long)offset);
  }
}

/// A thread takes 16 bytes where alignment allows it, else one element.
void widths() {
  const int64_t n = 3 * 4096;
  for (DType type : {DType::bf16, DType::f32}) {
    const int64_t wide = 16 / int64_t(size_of(type));
    const View x = filled(dense(type, {n})), y = filled(dense(type, {n})), odd = filled(dense(type, {n}), 1),
               tail = filled(dense(type, {n - 1})), to_tail = filled(dense(type, {n - 1}));
    auto count = [&](const char* what, int64_t expected, auto f) {
      const int64_t got = threads_of(f);
      expect(got == padded(expected), "%s of %s: %lld threads for %lld", what, std::string(name(type)).c_str(),
             (long long)got, (long long)expected);
    };
    count("copy", n / wide, [&] { copy(x, as(y)); });
    count("copy, one element off", n, [&] { copy(odd, as(y)); });
    count("copy with a tail", n - 1, [&] { copy(tail, as(to_tail)); });
    count("fill", n / wide, [&] { fill(1.5, as(y)); });
    count("scale", n / wide, [&] { scale(as(x), 2, as(y)); });
    count("scale with a tail", (n - 1 + wide - 1) / wide, [&] { scale(as(tail), 2, as(to_tail)); });
    count("multiply", n / wide, [&] { multiply(as(x), as(x), as(y)); });
    count("add", n / wide, [&] { add(as(x), as(x), 1, as(y)); });
    const View q = filled(dense(type, {2, 8, 12, 64})), swapped = filled(dense(type, {2, 12, 8, 64})),
               short_rows = filled(dense(type, {2, 8, 12, 7})), swapped_rows = filled(dense(type, {2, 12, 8, 7}));
    count("swap", q.numel() / wide, [&] { cuda::swap(as(q), as(swapped)); });
    count("swap of rows of seven", short_rows.numel(), [&] { cuda::swap(as(short_rows), as(swapped_rows)); });
    // Rows of 14 pixels, 28 or 56 bytes: 4 or 8 bytes at a time.
    const View image = filled(dense(type, {1, 3, 28, 28})), rows = filled(dense(type, {1, 4, 588}));
    count("patchify", image.numel() / 2, [&] { cuda::patchify(as(image), 14, as(rows)); });
    const View dy = filled(dense(type, {4, 96})), dx = filled(dense(type, {4, 8, 96}));
    // Four columns a thread, but only where enough threads remain.
    const View many = filled(dense(type, {2, 2, 65536})), sums = filled(dense(type, {2, 65536})),
               few = filled(dense(type, {2, 2, 4096})), few_sums = filled(dense(type, {2, 4096}));
    count("a sum of many columns", sums.numel() / 4, [&] { reduce_forward(as(many), 1, 0.5, as(sums)); });
    count("a sum of few columns", few_sums.numel(), [&] { reduce_forward(as(few), 1, 0.5, as(few_sums)); });
    count("a repeated row", dx.numel() / wide, [&] { reduce_backward(as(dy), 1, 0.125, as(dx)); });
  }
  const View x = filled(dense(DType::f32, {n})), y = filled(dense(DType::bf16, {n}));
  expect(threads_of([&] { copy(x, as(y)); }) == padded(n / 8), "float32 to bfloat16 is not by eights");
}

}  // namespace

int main() {
  divisions();
  plans();
  Stream stream(0);
  Use use(stream);
  indices();
  widths();
  std::printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
