// Makes a JavaScript function of an operator's C++ signature: decodes the arguments by the types of the parameters,
// calls the check, then puts the call into the queue. Nothing here depends on an operator.
#pragma once
#include <napi.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "binding/environment.h"
#include "binding/handle.h"
#include "binding/widen.h"
#include "core/list.h"
#include "core/profile.h"

namespace mt::binding {

/// One line of the registry.
struct Operator {
  const char* name;
  std::string signature;
  Napi::Function::Callback call;
};

inline constexpr uint32_t kMaxList = 1 << 16;  // elements of an argument that is a list

[[noreturn]] inline void refuse(const Napi::Value& v, const char* function, int position, const char* expected) {
  throw Napi::TypeError::New(
      v.Env(), text(function, ": argument ", position + 1, ": expected ", expected, ", but got ", shown(v), "."));
}

// ---- one decoder per parameter type ----

template <typename T>
struct Decoder;

template <typename T, bool Optional>
struct TensorDecoder {
  static T decode(const Napi::Value& v, const char* function, int position) {
    T out;
    if (Optional && (v.IsNull() || v.IsUndefined())) return out;
    static_cast<View&>(out) = unwrap(v, function, position).view;
    return out;
  }
};
template <> struct Decoder<View> : TensorDecoder<View, false> {
  static constexpr const char* name = "tensor";
};
template <> struct Decoder<Maybe> : TensorDecoder<Maybe, true> {
  static constexpr const char* name = "tensor?";
};
template <> struct Decoder<Out> : TensorDecoder<Out, false> {
  static constexpr const char* name = "out";
};
template <> struct Decoder<MaybeOut> : TensorDecoder<MaybeOut, true> {
  static constexpr const char* name = "out?";
};
template <> struct Decoder<InOut> : TensorDecoder<InOut, false> {
  static constexpr const char* name = "inout";
};
template <> struct Decoder<Act> : TensorDecoder<Act, false> {
  static constexpr const char* name = "act";
};
template <> struct Decoder<MaybeAct> : TensorDecoder<MaybeAct, true> {
  static constexpr const char* name = "act?";
};
template <> struct Decoder<ActOut> : TensorDecoder<ActOut, false> {
  static constexpr const char* name = "actOut";
};
template <> struct Decoder<MaybeActOut> : TensorDecoder<MaybeActOut, true> {
  static constexpr const char* name = "actOut?";
};
template <> struct Decoder<ActInOut> : TensorDecoder<ActInOut, false> {
  static constexpr const char* name = "actInOut";
};

template <> struct Decoder<double> {
  static constexpr const char* name = "float";
  static double decode(const Napi::Value& v, const char* function, int position) {
    if (!v.IsNumber()) refuse(v, function, position, "a number");
    return v.As<Napi::Number>().DoubleValue();
  }
};
template <> struct Decoder<int64_t> {
  static constexpr const char* name = "int";
  static int64_t decode(const Napi::Value& v, const char* function, int position) {
    if (!v.IsNumber()) refuse(v, function, position, "an integer");
    return integer(v.As<Napi::Number>().DoubleValue(), v.Env(), function, position);
  }
  static int64_t integer(double d, Napi::Env env, const char* function, int position) {
    if (!(d == std::floor(d)) || std::fabs(d) > 9007199254740992.0)
      refuse(Napi::Number::New(env, d), function, position, "an integer");
    return int64_t(d);
  }
};
template <> struct Decoder<bool> {
  static constexpr const char* name = "bool";
  static bool decode(const Napi::Value& v, const char* function, int position) {
    if (!v.IsBoolean()) refuse(v, function, position, "true or false");
    return v.As<Napi::Boolean>().Value();
  }
};

/// Calls `add` with every element of a JavaScript array.
template <typename F>
void each_element(const Napi::Value& v, const char* function, int position, const char* expected, F add) {
  if (!v.IsArray()) refuse(v, function, position, expected);
  const auto list = v.As<Napi::Array>();
  const uint32_t length = list.Length();
  if (length > kMaxList)
    throw Napi::TypeError::New(v.Env(), text(function, ": argument ", position + 1, ": expected at most ", kMaxList,
                                             " elements, but got ", length, "."));
  for (uint32_t i = 0; i < length; ++i) add(Napi::Value(list[i]));
}
template <typename T>
struct ListDecoder {
  static T decode(const Napi::Value& v, const char* function, int position) {
    T out;
    each_element(v, function, position, "an array of tensors",
                 [&](const Napi::Value& t) { out.push_back(unwrap(t, function, position).view); });
    return out;
  }
};
template <> struct Decoder<Views> : ListDecoder<Views> {
  static constexpr const char* name = "tensors";
};
template <> struct Decoder<InOuts> : ListDecoder<InOuts> {
  static constexpr const char* name = "inouts";
};
template <> struct Decoder<Numbers> {
  static constexpr const char* name = "floats";
  static Numbers decode(const Napi::Value& v, const char* function, int position) {
    Numbers out;
    each_element(v, function, position, "an array of numbers",
                 [&](const Napi::Value& x) { out.push_back(Decoder<double>::decode(x, function, position)); });
    return out;
  }
};

// ---- what the queue does before an operator runs ----

inline void prepare(const View& v) {
  if (!v) return;
  if (!v.storage->data())
    throw std::runtime_error("an input has no data, because the operator that should have made it failed or never ran");
  v.storage->require_unchanged();
}
inline void prepare(const Out& v) { v.storage->ensure(); }
inline void prepare(const MaybeOut& v) {
  if (v) v.storage->ensure();
}
inline void prepare(const Views& all) {
  for (const View& v : all) prepare(v);
}
inline void prepare(const InOuts& all) {
  for (const View& v : all) prepare(v);
}
inline void prepare(const Numbers&) {}
template <typename T>
  requires std::is_arithmetic_v<T>
void prepare(T) {}

// ---- and after it ----

/// Throws where an input's file was changed meanwhile: what was computed from it is nothing.
inline void require_unchanged(const View& v) {
  if (v) v.storage->require_unchanged();
}
inline void require_unchanged(const Views& all) {
  for (const View& v : all) require_unchanged(v);
}
inline void require_unchanged(const InOuts&) {}
inline void require_unchanged(const Numbers&) {}
template <typename T>
  requires std::is_arithmetic_v<T>
void require_unchanged(T) {}

// ---- or what it does in a rehearsal ----

inline void pretend(const View&) {}
inline void pretend(const Out& v) { v.storage->pretend(); }
inline void pretend(const MaybeOut& v) {
  if (v) v.storage->pretend();
}
inline void pretend(const Views&) {}
inline void pretend(const InOuts&) {}
inline void pretend(const Numbers&) {}
template <typename T>
  requires std::is_arithmetic_v<T>
void pretend(T) {}

// ---- what holds for the outputs of every operator ----

/// A tensor argument's view, whether it is written, and whether its old content is read. A list has one for each
/// element.
struct Role {
  const View* view = nullptr;
  bool written = false, read = true;
  size_t argument = 0;  // counted from 0
};
inline Role role(const View& v) { return {&v, false}; }
inline Role role(const Out& v) { return {&v, true, false}; }
inline Role role(const MaybeOut& v) { return {&v, true, false}; }
inline Role role(const InOut& v) { return {&v, true}; }
template <typename T>
  requires std::is_arithmetic_v<T>
Role role(T) {
  return {};
}
inline Role role(const Numbers&) { return {}; }
inline void add_roles(std::vector<Role>& to, const Views& all) {
  for (const View& v : all) to.push_back({&v, false});
}
inline void add_roles(std::vector<Role>& to, const InOuts& all) {
  for (const View& v : all) to.push_back({&v, true});
}
template <typename T>
void add_roles(std::vector<Role>& to, const T& v) {
  to.push_back(role(v));
}
template <typename T>
inline constexpr bool is_list = std::is_same_v<T, Views> || std::is_same_v<T, InOuts>;

/// The roles of all arguments, in order.
template <typename... Args>
auto roles_of(const Args&... args) {
  size_t argument = 0;
  if constexpr ((is_list<Args> || ...)) {
    std::vector<Role> all;
    auto add = [&](const auto& a) {
      const size_t from = all.size();
      add_roles(all, a);
      for (size_t i = from; i < all.size(); ++i) all[i].argument = argument;
      ++argument;
    };
    (add(args), ...);
    return all;
  } else {
    std::array<Role, sizeof...(Args)> all{role(args)...};
    for (Role& r : all) r.argument = argument++;
    return all;
  }
}

/// Requires that outputs have memory of their own: not a file's, not an input's, and no element twice.
void check_outputs(const Role* roles, size_t count);

template <typename Function>
struct Signature;
template <typename... Args>
struct Signature<void (*)(Args...)> {
  using Tuple = std::tuple<std::decay_t<Args>...>;
  static std::string text() {
    std::string s;
    ((s += (s.empty() ? "" : ", ") + std::string(Decoder<std::decay_t<Args>>::name)), ...);
    return "(" + s + ")";
  }
  template <size_t... I>
  static Tuple decode(const Napi::CallbackInfo& info, const char* name, std::index_sequence<I...>) {
    if (info.Length() != sizeof...(Args))
      throw Napi::TypeError::New(
          info.Env(), mt::text(name, ": expected ", sizeof...(Args), " arguments, but got ", info.Length(), "."));
    return Tuple{Decoder<std::decay_t<Args>>::decode(info[I], name, int(I))...};
  }
  static Tuple decode(const Napi::CallbackInfo& info, const char* name) {
    return decode(info, name, std::index_sequence_for<Args...>{});
  }
};

/// Runs `f`; C++ exceptions become JavaScript ones that name the function.
template <typename F>
Napi::Value guarded(const Napi::CallbackInfo& info, const char* function, F f) {
  try {
    return f();
  } catch (const Napi::Error&) { throw; } catch (const shape_error& e) {
    throw Napi::TypeError::New(info.Env(), text(function, ": ", e.what()));
  } catch (const std::exception& e) { throw Napi::Error::New(info.Env(), text(function, ": ", e.what(), ".")); }
}

/// The device of all arguments and results: that of the first argument that has memory, else the CPU. Throws where two
/// differ.
Device common_device(const Role* roles, size_t count);
/// Assigns the operator's device to arguments without memory. `stream` is null for the CPU.
void assign_device(napi_env env, const Role* roles, size_t count, const std::shared_ptr<cuda::Stream>& stream);
/// Keeps the arguments alive that a graph being captured uses.
void retain(cuda::Stream& stream, const Role* roles, size_t count);
/// Bytes of an operator's arguments: each counts in full and once, whatever the operator reads of it; elements that a
/// view repeats count once.
profile::Bytes traffic(const Role* roles, size_t count);
template <typename... Args>
profile::Bytes traffic(const std::tuple<Args...>& args) {
  const auto all = std::apply([](const auto&... a) { return roles_of(a...); }, args);
  return traffic(all.data(), all.size());
}
/// Whether MT_CUDA_SYNC=1 is set: the host then waits for every operator, so that an error names the one that failed.
bool waits_for_each();

// ---- activations ----

/// Calls `f` with the index and the view of every activation.
template <typename... Args, typename F>
void each_activation(std::tuple<Args...>& args, F f) {
  [&]<size_t... I>(std::index_sequence<I...>) {
    [[maybe_unused]] const auto one = [&]<size_t i, typename T>(T& v) {
      if constexpr (Parameter<T>::activation) f(i, static_cast<View&>(v));
    };
    (one.template operator()<I>(std::get<I>(args)), ...);
  }(std::index_sequence_for<Args...>{});
}
/// Whether the activations are bfloat16. Throws where only some of them are.
template <typename Tuple>
bool bfloat16_activations(Tuple& args) {
  size_t given = 0, narrow = 0, which = 0;
  each_activation(args, [&](size_t i, View& v) {
    if (!v) return;
    ++given;
    if (v.dtype == DType::bf16) ++narrow;
    else which = i;
  });
  require(narrow == 0 || narrow == given, "argument ", which + 1,
          ": expected dtype bfloat16 like the other activations, but got another; cast() it first.");
  return narrow != 0;
}
/// Sets the dtype of all activations: to float32 for the check, or to what they are.
template <typename Tuple>
void label_activations(Tuple& args, DType t) {
  each_activation(args, [t](size_t, View& v) {
    if (v) v.dtype = t;
  });
}

/// The type of a twin that takes float32 only: View where the check has Act, and so on.
template <typename Function>
struct Float32Twin;
template <typename... Args>
struct Float32Twin<void (*)(Args...)> {
  using type = void (*)(typename Parameter<Args>::Float32...);
};

/// Runs a CPU twin on float32 copies of bfloat16 activations. Sums and everything between are float32 either way.
template <auto Cpu, typename Tuple>
void widened(const Tuple& args) {
  Tuple wide = args;
  [[maybe_unused]] const auto roles = std::apply([](const auto&... a) { return roles_of(a...); }, args);
  each_activation(wide, [&](size_t i, View& v) {
    if (v) widen(v, roles[i].read);
  });
  std::apply(Cpu, wide);
  each_activation(wide, [&](size_t i, View& v) {
    if (v && roles[i].written) narrow(v, *roles[i].view);
  });
}

/// What an operator takes of memory, without being run: its outputs, and its float32 copies while it would run.
template <typename Tuple>
void rehearse(const Tuple& args, bool wide) {
  std::apply([](const auto&... a) { (pretend(a), ...); }, args);
  if (!wide) return;
  Tuple copies = args;
  std::vector<size_t> taken;
  each_activation(copies, [&](size_t, View& v) {
    if (v) taken.push_back(size_t(v.numel()) * sizeof(float));
  });
  for (size_t bytes : taken) rehearse_allocate(bytes);
  for (size_t bytes : taken) rehearse_release(bytes);
}

/// The registry's line for an operator: its check runs at once, one of its twins in the queue. `Cuda` is null in a
/// build without CUDA. A CPU twin with the check's parameters takes bfloat16 activations as they are; a twin with View
/// where the check has Act gets float32 copies.
template <auto Check, auto Cpu, auto Cuda>
Operator op(const char* name) {
  using Contract = decltype(Check);
  constexpr bool has_cuda = !std::is_same_v<decltype(Cuda), std::nullptr_t>;
  constexpr bool takes_bf16 = std::is_same_v<decltype(Cpu), Contract>;
  static_assert(takes_bf16 || std::is_same_v<decltype(Cpu), typename Float32Twin<Contract>::type>,
                "the CPU twin has the check's parameters, or View for Act in all of them");
  static_assert(!has_cuda || std::is_same_v<decltype(Cuda), Contract>, "the CUDA twin has the check's parameters");
  static const char* const id = name;
  using S = Signature<Contract>;
  return {name, std::string(name) + S::text(), [](const Napi::CallbackInfo& info) {
            return guarded(info, id, [&]() -> Napi::Value {
              auto args = S::decode(info, id);
              const bool narrow = bfloat16_activations(args);
              if (narrow) label_activations(args, DType::f32);
              std::apply(Check, args);
              if (narrow) label_activations(args, DType::bf16);
              const auto roles = std::apply([](const auto&... a) { return roles_of(a...); }, args);
              check_outputs(roles.data(), roles.size());
              const Device device = common_device(roles.data(), roles.size());
              auto& environment = Environment::of(info.Env());
              auto stream = environment.stream(device);
              assign_device(info.Env(), roles.data(), roles.size(), stream);
              // With empty outputs there is nothing to do; the other sizes may be huge.
              if (std::none_of(roles.begin(), roles.end(),
                               [](const Role& r) { return r.written && *r.view && r.view->numel(); }))
                return info.Env().Undefined();
              if (environment.rehearsing) {
                const bool wide = environment.rehearses_copies && narrow && !takes_bf16;
                environment.calls.enqueue(id, [args = std::move(args), wide] { rehearse(args, wide); });
              } else if (!stream) {
                environment.calls.enqueue(id, [args = std::move(args), narrow] {
                  const profile::Span span(id, nullptr, [&] { return traffic(args); });
                  std::apply([](const auto&... a) { (prepare(a), ...); }, args);
                  if (narrow && !takes_bf16) widened<Cpu>(args);
                  else std::apply(Cpu, args);
                  std::apply([](const auto&... a) { (require_unchanged(a), ...); }, args);
                });
              } else if constexpr (has_cuda) {
                environment.calls.enqueue(id, [args = std::move(args), stream] {
                  cuda::Use use(*stream);
                  const profile::Span span(id, stream, [&] { return traffic(args); });
                  std::apply([](const auto&... a) { (prepare(a), ...); }, args);
                  std::apply(Cuda, args);
                  if (stream->capturing()) {
                    const auto all = std::apply([](const auto&... a) { return roles_of(a...); }, args);
                    retain(*stream, all.data(), all.size());
                  } else if (waits_for_each()) {
                    stream->wait();
                  }
                });
              }
              return info.Env().Undefined();
            });
          }};
}

const std::vector<Operator>& registry();

}  // namespace mt::binding
