// Turns an operator's C++ signature into its JavaScript function: decodes arguments by parameter type, checks once,
// then takes a place in the queue. Nothing here knows an operator.
#pragma once
#include <napi.h>

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <utility>

#include "binding/environment.h"
#include "binding/handle.h"
#include "core/view.h"

namespace mt::binding {

/// One line of the registry.
struct Operator {
  const char* name;
  std::string signature;
  Napi::Function::Callback call;
};

[[noreturn]] inline void refuse(const Napi::Value& v, const char* function, int position, const char* expected) {
  throw Napi::TypeError::New(v.Env(), text(function, ": argument ", position + 1, ": expected ", expected, ", but got ", shown(v), "."));
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
template <> struct Decoder<View> : TensorDecoder<View, false> { static constexpr const char* name = "tensor"; };
template <> struct Decoder<Maybe> : TensorDecoder<Maybe, true> { static constexpr const char* name = "tensor?"; };
template <> struct Decoder<Out> : TensorDecoder<Out, false> { static constexpr const char* name = "out"; };
template <> struct Decoder<MaybeOut> : TensorDecoder<MaybeOut, true> { static constexpr const char* name = "out?"; };
template <> struct Decoder<InOut> : TensorDecoder<InOut, false> { static constexpr const char* name = "inout"; };

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
    double d = v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : NAN;
    if (!(d == std::floor(d)) || std::fabs(d) > 9007199254740992.0) refuse(v, function, position, "an integer");
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

// ---- what the queue does before an operator runs ----

inline void prepare(const View& v) {
  if (v && !v.storage->data()) throw std::runtime_error("an input has no data, because the operator that should have made it failed or never ran");
}
inline void prepare(const Out& v) { v.storage->ensure(); }
inline void prepare(const MaybeOut& v) { if (v) v.storage->ensure(); }
template <typename T>
  requires std::is_arithmetic_v<T>
void prepare(T) {}

// ---- what holds for the outputs of every operator ----

/// An argument's view, and whether it is written.
struct Role {
  const View* view = nullptr;
  bool written = false;
};
inline Role role(const View& v) { return {&v, false}; }
inline Role role(const Out& v) { return {&v, true}; }
inline Role role(const MaybeOut& v) { return {&v, true}; }
inline Role role(const InOut& v) { return {&v, true}; }
template <typename T>
  requires std::is_arithmetic_v<T>
Role role(T) {
  return {};
}

/// Outputs have memory of their own: not a file's, not an input's, and no element twice.
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
      throw Napi::TypeError::New(info.Env(), mt::text(name, ": expected ", sizeof...(Args), " arguments, but got ", info.Length(), "."));
    return Tuple{Decoder<std::decay_t<Args>>::decode(info[I], name, int(I))...};
  }
  static Tuple decode(const Napi::CallbackInfo& info, const char* name) { return decode(info, name, std::index_sequence_for<Args...>{}); }
};

/// Runs `f`, turning C++ exceptions into JavaScript ones that name the function.
template <typename F>
Napi::Value guarded(const Napi::CallbackInfo& info, const char* function, F f) {
  try {
    return f();
  } catch (const Napi::Error&) {
    throw;
  } catch (const shape_error& e) {
    throw Napi::TypeError::New(info.Env(), text(function, ": ", e.what()));
  } catch (const std::exception& e) {
    throw Napi::Error::New(info.Env(), text(function, ": ", e.what(), "."));
  }
}

/// The registry's line for an operator: its check runs at once, its CPU twin in the queue.
template <auto Check, auto Cpu>
Operator op(const char* name) {
  static_assert(std::is_same_v<decltype(Check), decltype(Cpu)>, "check and twin have one signature");
  static const char* const id = name;
  using S = Signature<decltype(Cpu)>;
  return {name, std::string(name) + S::text(), [](const Napi::CallbackInfo& info) {
            return guarded(info, id, [&]() -> Napi::Value {
              auto args = S::decode(info, id);
              std::apply(Check, args);
              auto roles = std::apply([](const auto&... a) { return std::array<Role, sizeof...(a)>{role(a)...}; }, args);
              check_outputs(roles.data(), roles.size());
              // Nothing to write is nothing to do, however large the sizes beside the 0.
              if (std::none_of(roles.begin(), roles.end(), [](const Role& r) { return r.written && *r.view && r.view->numel(); })) return info.Env().Undefined();
              Environment::of(info.Env()).stream.enqueue(id, [args = std::move(args)] {
                std::apply([](const auto&... a) { (prepare(a), ...); }, args);
                std::apply(Cpu, args);
              });
              return info.Env().Undefined();
            });
          }};
}

const std::vector<Operator>& table();

}  // namespace mt::binding
