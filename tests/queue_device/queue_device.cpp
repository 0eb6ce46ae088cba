// A device of threads for torch: memory of its own, streams that are real queues, events, a copy engine of set speed.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/EmptyTensor.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

using Clock = std::chrono::steady_clock;
static std::atomic<double> bytes_per_s{1e9};
static constexpr auto KIND = c10::DeviceType::PrivateUse1;

struct Mark {  // one recording of an event
    std::mutex mutex;
    std::condition_variable come;
    bool done = false;
    Clock::time_point at;
    void wait() {
        std::unique_lock lock(mutex);
        come.wait(lock, [&] { return done; });
    }
};
struct EventState { std::mutex mutex; std::shared_ptr<Mark> mark; };

struct Worker {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> queue;
    bool busy = false;
    Worker() { std::thread([this] { run(); }).detach(); }
    void submit(std::function<void()> work) {
        {
            std::lock_guard lock(mutex);
            queue.push_back(std::move(work));
        }
        changed.notify_all();
    }
    void drain() {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return queue.empty() && !busy; });
    }
    bool idle() {
        std::lock_guard lock(mutex);
        return queue.empty() && !busy;
    }
    void run() {
        for (;;) {
            std::function<void()> work;
            {
                std::unique_lock lock(mutex);
                changed.wait(lock, [&] { return !queue.empty(); });
                work = std::move(queue.front());
                queue.pop_front();
                busy = true;
            }
            work();
            {
                std::lock_guard lock(mutex);
                busy = false;
            }
            changed.notify_all();
        }
    }
};
static std::mutex workers_mutex;
static std::deque<Worker*>& workers() { static auto* all = new std::deque<Worker*>{new Worker}; return *all; }
static Worker& worker(c10::StreamId id) { std::lock_guard lock(workers_mutex); return *workers()[id]; }
static thread_local c10::StreamId current_id = 0;

struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return KIND; }
    c10::Device exchangeDevice(c10::Device) const override { return {KIND, 0}; }
    c10::Device getDevice() const override { return {KIND, 0}; }
    void setDevice(c10::Device) const override {}
    void uncheckedSetDevice(c10::Device) const noexcept override {}
    c10::DeviceIndex deviceCount() const noexcept override { return 1; }
    c10::Stream of(c10::StreamId id) const { return c10::Stream(c10::Stream::UNSAFE, {KIND, 0}, id); }
    c10::Stream getStream(c10::Device) const override { return of(current_id); }
    c10::Stream getDefaultStream(c10::Device) const override { return of(0); }
    c10::Stream getNewStream(c10::Device, int) const override {
        std::lock_guard lock(workers_mutex);
        workers().push_back(new Worker);
        return of(workers().size() - 1);
    }
    c10::Stream exchangeStream(c10::Stream stream) const override {
        auto before = of(current_id);
        current_id = stream.id();
        return before;
    }
    bool queryStream(const c10::Stream& stream) const override { return worker(stream.id()).idle(); }
    void synchronizeStream(const c10::Stream& stream) const override { worker(stream.id()).drain(); }
    void synchronizeDevice(const c10::DeviceIndex) const override {
        for (size_t i = 0; i < workers().size(); ++i) worker(i).drain();
    }
    void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
        delete static_cast<EventState*>(event);
    }
    void record(void** event, const c10::Stream& stream, const c10::DeviceIndex, const c10::EventFlag) const override {
        if (!*event) *event = new EventState;
        auto* state = static_cast<EventState*>(*event);
        auto mark = std::make_shared<Mark>();
        {
            std::lock_guard lock(state->mutex);
            state->mark = mark;
        }
        worker(stream.id()).submit([mark] {
            {
                std::lock_guard lock(mark->mutex);
                mark->done = true;
                mark->at = Clock::now();
            }
            mark->come.notify_all();
        });
    }
    static std::shared_ptr<Mark> mark_of(void* event) {
        if (!event) return nullptr;
        auto* state = static_cast<EventState*>(event);
        std::lock_guard lock(state->mutex);
        return state->mark;
    }
    void block(void* event, const c10::Stream& stream) const override {
        if (auto mark = mark_of(event)) worker(stream.id()).submit([mark] { mark->wait(); });
    }
    bool queryEvent(void* event) const override {
        auto mark = mark_of(event);
        if (!mark) return true;
        std::lock_guard lock(mark->mutex);
        return mark->done;
    }
    void synchronizeEvent(void* event) const override {
        if (auto mark = mark_of(event)) mark->wait();
    }
    double elapsedTime(void* from, void* to, const c10::DeviceIndex) const override {
        auto first = mark_of(from), second = mark_of(to);
        TORCH_CHECK(first && second && queryEvent(from) && queryEvent(to), "events have not come");
        return std::chrono::duration<double, std::milli>(second->at - first->at).count();
    }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

static std::mutex pinned_mutex;
static std::map<const char*, size_t>& pinned() {
    static auto* all = new std::map<const char*, size_t>;
    return *all;
}
static void free_pinned(void* at) {
    {
        std::lock_guard lock(pinned_mutex);
        pinned().erase((const char*)at);
    }
    free(at);
}
static void free_device(void* at) { free(at); }  // at once: work that still needs it holds its tensor
template <bool PINNED> struct Memory final : c10::Allocator {
    c10::DataPtr allocate(size_t size) override {
        void* at = size ? aligned_alloc(64, (size + 63) / 64 * 64) : nullptr;
        if (!PINNED) return {at, at, &free_device, c10::Device(KIND, 0)};
        if (at) {
            std::lock_guard lock(pinned_mutex);
            pinned()[(const char*)at] = size;
        }
        return {at, at, &free_pinned, c10::Device(c10::kCPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return PINNED ? &free_pinned : &free_device; }
    void copy_data(void* to, const void* from, size_t size) const override { memcpy(to, from, size); }
};
static Memory<false> device_memory;
static Memory<true> pinned_memory;
REGISTER_ALLOCATOR(KIND, &device_memory);

struct Hooks final : at::PrivateUse1HooksInterface {
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
    c10::DeviceIndex deviceCount() const override { return 1; }
    c10::DeviceIndex getCurrentDevice() const override { return 0; }
    void setCurrentDevice(c10::DeviceIndex) const override {}
    c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
    c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
    c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
    bool isPinnedPtr(const void* data) const override {
        std::lock_guard lock(pinned_mutex);
        auto next = pinned().upper_bound((const char*)data);
        return next != pinned().begin() && (--next, (const char*)data < next->first + next->second);
    }
};

using Type = std::optional<at::ScalarType>;
using Where = std::optional<at::Device>;
using Sizes = c10::SymIntArrayRef;
static const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);
static at::Tensor empty(Sizes size, Type type, std::optional<at::Layout>, Where, std::optional<bool>,
                        std::optional<at::MemoryFormat>) {
    auto plain = C10_AS_INTARRAYREF_SLOW(size);
    return at::detail::empty_generic(plain, &device_memory, KEYS, type.value_or(at::kFloat), std::nullopt);
}
static at::Tensor empty_strided(Sizes size, Sizes stride, Type type, std::optional<at::Layout>, Where,
                                std::optional<bool>) {
    auto plain = C10_AS_INTARRAYREF_SLOW(size), strides = C10_AS_INTARRAYREF_SLOW(stride);
    return at::detail::empty_strided_generic(plain, strides, &device_memory, KEYS, type.value_or(at::kFloat));
}
static at::Tensor on_cpu(const at::Tensor& tensor) {  // the same bytes as a host tensor; for work inside a queue only
    return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
}
static at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool non_blocking) {
    auto expanded = from.expand(to.sizes());
    bool crosses = from.device() != to.device();
    double seconds = crosses ? from.nbytes() / bytes_per_s.load() : 0.0;
    Worker& queue = worker(current_id);
    queue.submit([expanded, to, seconds] {
        auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
        at::AutoDispatchBelowADInplaceOrView below;
        auto target = to.is_cpu() ? to : on_cpu(to);
        std::this_thread::sleep_until(end);  // bytes arrive at the end, so that reading early is seen
        target.copy_(expanded.is_cpu() ? expanded : on_cpu(expanded));
    });
    if (!non_blocking) queue.drain();
    return to;
}
static at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
    if (to.sizes() != from.sizes()) {
        auto fresh = at::detail::empty_generic(from.sizes(), &device_memory, KEYS, to.scalar_type(), std::nullopt);
        to.unsafeGetTensorImpl()->set_storage_keep_dtype(fresh.storage());
        to.unsafeGetTensorImpl()->set_sizes_contiguous(from.sizes());
    }
    return copy_from(from, to, false);
}
static at::Tensor& fill(at::Tensor& self, const at::Scalar& value) {
    worker(current_id).submit([self, value] { auto target = on_cpu(self); target.fill_(value); });
    return self;
}
static at::Tensor& zero(at::Tensor& self) { return fill(self, 0); }
static at::Tensor as_strided(const at::Tensor& self, Sizes size, Sizes stride, std::optional<c10::SymInt> offset) {
    auto plain = C10_AS_INTARRAYREF_SLOW(size), strides = C10_AS_INTARRAYREF_SLOW(stride);
    auto begin = offset ? std::make_optional(offset->expect_int()) : std::nullopt;
    return at::native::as_strided_tensorimpl(self, plain, strides, begin);
}
static at::Tensor view(const at::Tensor& self, Sizes size) {
    return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}
static at::Tensor view_dtype(const at::Tensor& self, at::ScalarType type) { return at::native::view_dtype(self, type); }
static at::Tensor reshape_alias(const at::Tensor& self, Sizes size, Sizes stride) {
    return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
static at::Scalar scalar(const at::Tensor& self) {
    worker(current_id).drain();
    return on_cpu(self).item();
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
    m.impl("empty.memory_format", &empty);
    m.impl("empty_strided", &empty_strided);
    m.impl("_copy_from", &copy_from);
    m.impl("_copy_from_and_resize", &copy_from_and_resize);
    m.impl("fill_.Scalar", &fill);
    m.impl("zero_", &zero);
    m.impl("as_strided", &as_strided);
    m.impl("view", &view);
    m.impl("view.dtype", &view_dtype);
    m.impl("_reshape_alias", &reshape_alias);
    m.impl("_local_scalar_dense", &scalar);
}
// Everything else: arguments to the host, computed there, results back; each copy waits for the caller's stream.
static void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack); }
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

static Hooks hooks;
static const bool registered = (at::RegisterPrivateUse1HooksInterface(&hooks), true);
extern "C" void set_rate(double rate) { bytes_per_s = rate; }
extern "C" void host_node(int64_t stream, size_t function, size_t words) {  // as cudaLaunchHostFunc
    worker(stream).submit([=] { ((int64_t (*)(const void*))function)((const void*)words); });
}
