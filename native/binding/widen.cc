#include "binding/widen.h"

#include "ops/copy.h"

namespace mt::binding {

void widen(View& v, bool filled) {
  Out wide;
  static_cast<View&>(wide) = v;
  wide.dtype = DType::f32;
  wide.offset = 0;
  int64_t n = 1;
  for (int i = v.rank - 1; i >= 0; n *= v.shape[i--]) wide.stride[i] = n;
  wide.storage = std::make_shared<Storage>(size_t(n) * sizeof(float));
  wide.storage->assign_device(nullptr);
  wide.storage->ensure();
  if (filled) cpu::copy(v, wide);
  v = wide;
}

void narrow(const View& from, const View& to) {
  Out out;
  static_cast<View&>(out) = to;
  cpu::copy(from, out);
}

}  // namespace mt::binding
