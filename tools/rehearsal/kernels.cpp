// Replaces every CUDA kernel of ATen by one that (1) raises where CUDA would: tensors and generators of
// another device, integer matrix products, kernels without a deterministic form where torch is told to refuse them; (2) runs the CPU's kernel on the same, host, memory; (3) draws
// from a CPU generator that follows from the CUDA generator's seed and offset, and advances that; (4) counts
// launches, those still pending since the last synchronisation, and those without a deterministic form.
// float32 products are rounded to TF32 where torch's settings let cuDNN and cuBLAS do so.
// Loaded by device.py into a process under runtime.cpp.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/op_registration/op_registration.h>
#include <torch/library.h>

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>

using namespace at;
using Names = std::set<std::string>;
using Stack = torch::jit::Stack;

extern "C" long long rehearsal_synchronised();  // of runtime.cpp

// What torch does itself on any device: memory, not numbers.
static const Names kLeft = {
    "aten::empty", "aten::empty_strided", "aten::resize_", "aten::set_", "aten::record_stream", "aten::is_pinned",
    "aten::_pin_memory", "aten::pin_memory", "aten::_has_compatible_shallow_copy_type", "aten::resize_as_",
    "aten::_efficientzerotensor", "aten::is_set_to", "aten::_nested_tensor_from_tensor_list", "aten::storage_offset",
    "aten::_cuda_getCurrentRawStream"};
// Composite operators that choose a library's kernel by device below the dispatcher: taken whole.
static const Names kTaken = {
    "aten::convolution", "aten::convolution_backward", "aten::convolution_overrideable", "aten::copy_",
    "aten::_fused_sdp_choice", "aten::embedding_dense_backward", "aten::fill_.Tensor", "aten::random_",
    "aten::_index_put_impl_", "aten::binary_cross_entropy", "aten::bernoulli_.float"};
static const std::vector<std::string> kSparseProducts = {"addmm", "mm", "addmv", "bmm", "addmm.out", "_sparse_mm"};
static const Names kCopies = {"aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize"};
// Their indices may be on the CPU.
static const Names kIndexed = {"aten::index", "aten::_unsafe_index", "aten::index_put_", "aten::index_put",
                               "aten::_index_put_impl_", "aten::_unsafe_index_put", "aten::_index_put_impl"};
static const Names kProducts = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::baddbmm_",
                                "aten::addmv", "aten::addmv_", "aten::dot", "aten::vdot", "aten::addbmm",
                                "aten::_addmm_activation"};
static const Names kConvolutions = {"aten::convolution", "aten::convolution_backward"};
// They take no CPU tensor, not even one without dimensions.
static const Names kStrict = {"aten::_fused_adam_", "aten::_fused_adamw_", "aten::_fused_sgd_", "aten::cat", "aten::gather",
                              "aten::scatter", "aten::index_select", "aten::embedding", "aten::mm", "aten::bmm", "aten::addmm"};
// The host waits for their result.
static const Names kAwaited = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal",
                               "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive", "aten::is_nonzero"};

// Counts ----------------------------------------------------------------------------------------

static std::mutex g_mutex;
static std::map<std::string, long long> g_launches;          // operator -> launches
static std::map<std::string, long long> g_nondeterministic;  // operator -> launches
static Names g_listed;                                       // operators, or overloads, without a deterministic form
static long long g_pending = 0, g_seen_synchronised = 0;

static void count(const std::string& name, bool nondeterministic) {
  std::lock_guard<std::mutex> lock(g_mutex);
  ++g_launches[name];
  if (nondeterministic) ++g_nondeterministic[name];
  long long now = rehearsal_synchronised();
  if (now != g_seen_synchronised) g_pending = 0;
  g_seen_synchronised = now;
  ++g_pending;
}
static void awaited() {
  std::lock_guard<std::mutex> lock(g_mutex);
  g_pending = 0;
}

// The same memory under the other device's name ---------------------------------------------------

static Tensor on_host(const Tensor& t) {
  if (t.layout() == kSparseCsr)
    return at::_sparse_csr_tensor_unsafe(on_host(t.crow_indices()), on_host(t.col_indices()), on_host(t.values()), t.sizes(),
                                         TensorOptions().dtype(t.scalar_type()).layout(kSparseCsr).device(kCPU));
  if (t._is_zerotensor()) return at::zeros(t.sizes(), TensorOptions().dtype(t.scalar_type()).device(kCPU));
  if (t.numel() == 0 && !t.has_storage()) return at::empty(t.sizes(), t.options().device(kCPU));
  Tensor keep = t;
  auto alias = at::from_blob(t.data_ptr(), t.sizes(), t.strides(), [keep](void*) mutable { keep.reset(); },
                             TensorOptions().dtype(t.scalar_type()).device(kCPU));
  if (t.is_conj()) alias._set_conj(true);
  if (t.is_neg()) alias._set_neg(true);
  if (t.unsafeGetTensorImpl()->is_wrapped_number()) alias.unsafeGetTensorImpl()->set_wrapped_number(true);
  return alias;
}
static Tensor on_device(const Tensor& t, c10::Device device) {
  if (!t.defined() || t.is_cuda()) return t;
  auto from = t.resolve_conj().resolve_neg();
  auto to = from.is_non_overlapping_and_dense()
                ? at::empty_strided(from.sizes(), from.strides(), from.options().device(device))
                : at::empty(from.sizes(), from.options().device(device));
  if (from.numel()) on_host(to).copy_(from);
  return to;
}
static Generator host_generator(Generator g) {
  std::lock_guard<std::mutex> lock(g.mutex());
  auto* impl = g.unsafeGetGeneratorImpl();
  uint64_t seed = impl->current_seed(), offset = impl->get_offset();
  impl->set_offset(offset + 4);
  uint64_t mixed = seed * 0x9E3779B97F4A7C15ull + (offset + 1) * 0xD1B54A32D192ED03ull;
  mixed ^= mixed >> 31;
  mixed *= 0xBF58476D1CE4E5B9ull;
  mixed ^= mixed >> 29;
  return at::make_generator<CPUGeneratorImpl>(mixed & 0x7fffffffffffffffull);
}

// Ten bits of mantissa, as tensor cores multiply float32 where they may.
static Tensor as_tf32(const Tensor& t) {
  if (!t.defined() || t.scalar_type() != kFloat || t.layout() != kStrided) return t;
  auto whole = t.contiguous();
  return whole.view(kInt).add(0x1000).bitwise_and_(~0x1FFF).view(kFloat);
}
static bool in_tf32(const std::string& name) {
  if (kConvolutions.count(name)) return at::globalContext().allowTF32CuDNN(at::Float32Op::CONV);
  return kProducts.count(name) && at::globalContext().allowTF32CuBLAS();
}

static void each(const IValue& v, const std::function<void(const Tensor&)>& see) {
  if (v.isTensor()) see(v.toTensor());
  else if (v.isTensorList()) for (const Tensor& t : v.toTensorList()) see(t);
  else if (v.isOptionalTensorList()) for (const std::optional<Tensor>& t : v.toOptionalTensorList()) { if (t) see(*t); }
}
static IValue mapped(const IValue& v, const std::function<Tensor(const Tensor&)>& move) {
  if (v.isTensor()) return IValue(move(v.toTensor()));
  if (v.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& t : v.toTensorList()) list.push_back(move(t));
    return IValue(list);
  }
  if (v.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const std::optional<Tensor>& t : v.toOptionalTensorList()) list.push_back(t ? std::optional<Tensor>(move(*t)) : t);
    return IValue(list);
  }
  return v;
}
static bool written(const c10::Argument& a) { return a.alias_info() && a.alias_info()->isWrite(); }

// What CUDA refuses -------------------------------------------------------------------------------

static void check(const c10::FunctionSchema& schema, const std::string& name, const std::vector<IValue>& args) {
  const bool indexed = kIndexed.count(name) && args[0].isTensor() && args[0].toTensor().is_cuda();
  for (size_t i = 0; i < args.size(); ++i) {
    const auto& argument = schema.arguments()[i];
    each(args[i], [&](const Tensor& t) {
      if (!t.defined() || t.is_cuda()) return;
      TORCH_CHECK(t.is_cpu(), "[rehearsal] ", name, " got a tensor on ", t.device());
      const bool scalar = t.dim() == 0 && !written(argument) && !kStrict.count(name);
      TORCH_CHECK(kCopies.count(name) || (indexed && i == 1) || scalar,
                  "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                  "(when checking argument ", argument.name(), " in ", name, ", shape ", t.sizes(), ") [rehearsal]");
    });
    if (args[i].isGenerator() && args[i].toGenerator().defined())
      TORCH_CHECK(args[i].toGenerator().device().is_cuda(), "Expected a 'cuda' device type for generator but found '",
                  args[i].toGenerator().device().type(), "' (", name, ") [rehearsal]");
    if ((kProducts.count(name) || name == "aten::convolution") && args[i].isTensor() && args[i].toTensor().defined())
      TORCH_CHECK(!c10::isIntegralType(args[i].toTensor().scalar_type(), true), "\"", name, "\" not implemented for '",
                  args[i].toTensor().scalar_type(), "' on CUDA [rehearsal]");
  }
}

static bool is_nondeterministic(const c10::FunctionSchema& schema, const std::string& name, const std::vector<IValue>& args) {
  const bool listed = g_listed.count(name) || g_listed.count(name + "." + schema.overload_name());
  // A count is exact in any order; a sum of weights is not.
  return listed && (name != "aten::bincount" || (args[1].isTensor() && args[1].toTensor().defined()));
}

// One kernel for all ------------------------------------------------------------------------------

struct Resized { Tensor device, host; };  // an output that the operator may resize, and its twin

static IValue host_argument(const c10::Argument& argument, const IValue& v, std::vector<Resized>& outputs) {
  if (argument.type()->str().find("Generator") != std::string::npos) {
    const bool given = v.isGenerator() && v.toGenerator().defined();
    return IValue(host_generator(given ? v.toGenerator() : at::globalContext().defaultGenerator(c10::Device(kCUDA, 0))));
  }
  if (v.isDevice() && v.toDevice().is_cuda()) return IValue(c10::Device(kCPU));
  return mapped(v, [&](const Tensor& t) -> Tensor {
    if (!t.defined() || !t.is_cuda()) return t;
    if (!argument.is_out() || t.numel()) return on_host(t);
    outputs.push_back({t, at::empty_like(on_host(t))});
    return outputs.back().host;
  });
}
static IValue device_result(const c10::FunctionSchema& schema, size_t r, const IValue& v, const std::vector<IValue>& args) {
  const auto* returned = schema.returns()[r].alias_info();
  if (!returned || !returned->isWrite()) return mapped(v, [](const Tensor& t) { return on_device(t, c10::Device(kCUDA, 0)); });
  for (size_t i = 0; i < args.size(); ++i)
    if (written(schema.arguments()[i]) && schema.arguments()[i].alias_info()->beforeSets() == returned->beforeSets()) return args[i];
  return v;
}
static void run(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = schema.name();
  const size_t begin = stack->size() - schema.arguments().size();
  const std::vector<IValue> args(stack->begin() + begin, stack->end());
  const bool nondeterministic = is_nondeterministic(schema, name, args);
  count(name, nondeterministic);
  check(schema, name, args);
  if (nondeterministic) at::globalContext().alertNotDeterministic(name);  // raises or warns, as torch is told to

  bool sparse = false;
  std::vector<Resized> outputs;
  for (size_t i = 0; i < args.size(); ++i) {
    each(args[i], [&](const Tensor& t) { sparse |= t.defined() && t.layout() == kSparseCsr; });
    (*stack)[begin + i] = host_argument(schema.arguments()[i], args[i], outputs);
  }
  if (in_tf32(name))
    for (size_t i = 0; i < args.size(); ++i)
      if (!written(schema.arguments()[i]) && !(name == "aten::convolution" && i == 2))  // the bias is added, not multiplied
        (*stack)[begin + i] = mapped((*stack)[begin + i], as_tf32);
  if (sparse) op.callBoxed(stack);
  else op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  for (auto& output : outputs) {
    output.device.resize_(output.host.sizes());
    if (output.host.numel()) on_host(output.device).copy_(output.host);
  }
  const size_t first = stack->size() - schema.returns().size();
  for (size_t r = 0; r < schema.returns().size(); ++r)
    (*stack)[first + r] = device_result(schema, r, (*stack)[first + r], args);
  if (kAwaited.count(name) || (kCopies.count(name) && args[0].toTensor().is_cpu())) awaited();
}

static bool is_view(const c10::FunctionSchema& schema) {
  for (const auto& r : schema.returns()) if (r.alias_info() && !r.alias_info()->isWrite()) return true;
  return false;
}
// Never destroyed: torch goes first at the end of the process.
static auto& g_libraries = *new std::vector<std::unique_ptr<torch::Library>>;

extern "C" int rehearsal_install() {
  auto& dispatcher = c10::Dispatcher::singleton();
  auto dense = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  auto sparse = std::make_unique<torch::Library>(torch::Library::IMPL, "aten", c10::DispatchKey::SparseCsrCUDA, __FILE__, __LINE__);
  int replaced = 0;
  for (const auto& name : dispatcher.getAllOpNames()) {
    auto op = dispatcher.findSchema(name);
    if (name.name.rfind("aten::", 0) != 0 || kLeft.count(name.name) || !op) continue;
    const std::string full = name.name + (name.overload_name.empty() ? "" : "." + name.overload_name);
    if (!op->hasKernelForDispatchKey(c10::DispatchKey::CUDA) && !kTaken.count(full)) continue;
    if (is_view(op->schema())) continue;
    dense->impl(full.substr(6).c_str(), torch::CppFunction::makeFromBoxedFunction<&run>());
    ++replaced;
  }
  for (const std::string& name : kSparseProducts) {
    const size_t dot = name.find('.');
    auto op = dispatcher.findSchema({"aten::" + name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)});
    if (op && op->hasKernelForDispatchKey(c10::DispatchKey::SparseCsrCUDA))
      sparse->impl(name.c_str(), torch::CppFunction::makeFromBoxedFunction<&run>());
  }
  g_libraries.push_back(std::move(dense));
  g_libraries.push_back(std::move(sparse));
  return replaced;
}
extern "C" void rehearsal_list_nondeterministic(const char* name) { g_listed.insert(name); }
extern "C" void rehearsal_forget() {
  std::lock_guard<std::mutex> lock(g_mutex);
  g_launches.clear();
  g_nondeterministic.clear();
}
extern "C" long long rehearsal_pending() {
  std::lock_guard<std::mutex> lock(g_mutex);
  return rehearsal_synchronised() == g_seen_synchronised ? g_pending : 0;
}
extern "C" const char* rehearsal_counts() {  // lines of: operator, launches, launches without a deterministic form
  static std::string text;
  std::lock_guard<std::mutex> lock(g_mutex);
  text.clear();
  for (auto& [name, n] : g_launches) {
    auto found = g_nondeterministic.find(name);
    text += name + " " + std::to_string(n) + " " + std::to_string(found == g_nondeterministic.end() ? 0 : found->second) + "\n";
  }
  return text.c_str();
}
