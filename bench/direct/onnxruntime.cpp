#include <dlfcn.h>
#include <link.h>
#include <onnxruntime_c_api.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "direct/direct.h"

namespace direct {
namespace {

using Clock = std::chrono::steady_clock;

// --- The library ---

std::string loaded_library() {
  std::string found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        const std::string_view name = info->dlpi_name;
        if (name.find("libonnxruntime.so") == std::string_view::npos) return 0;
        *static_cast<std::string*>(out) = name;
        return 1;
      },
      &found);
  return found;
}

const OrtApi* open_api(std::string path) {
  if (path.empty()) path = loaded_library();
  if (path.empty()) path = "libonnxruntime.so.1";
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(std::string("cannot open ONNX Runtime: ") + dlerror());
  using GetBase = const OrtApiBase* (*)();
  const auto base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
  const OrtApi* const api = base ? base()->GetApi(ORT_API_VERSION) : nullptr;
  if (!api)
    throw std::runtime_error(path + " is no ONNX Runtime with C interface " +
                             std::to_string(ORT_API_VERSION));
  return api;
}

// --- The loop ---

class Onnx final : public OnnxLoop {
 public:
  // By way of the other constructor, so that the destructor cleans up after what throws here.
  explicit Onnx(const OnnxSetup& setup) : Onnx(setup, open_api(setup.library)) {
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "direct", &env_));
    open_session();
    check(api_->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory_));
    for (const auto& batch : setup_.batches) {
      std::vector<OrtValue*>& values = batches_.emplace_back();
      for (const Tensor& input : batch) values.push_back(wrap(input));
    }
    if (!setup_.batches.empty()) {
      for (const Tensor& input : setup_.batches[0]) input_names_.push_back(input.name.c_str());
    }
    for (const Tensor& output : setup_.outputs) output_names_.push_back(output.name.c_str());
    const int threads = setup_.naive ? 1 : setup_.threads;
    for (int i = 0; i < threads; ++i) workers_.push_back(std::make_unique<Worker>());
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      make_outputs(*workers_[i]);
      workers_[i]->next_batch = i * (batches_.size() / workers_.size());
      workers_[i]->thread = std::thread([this, worker = workers_[i].get()] { work(*worker); });
    }
  }

  ~Onnx() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (auto& worker : workers_) {
      if (worker->thread.joinable()) worker->thread.join();
    }
    for (auto& worker : workers_) {
      for (OrtValue* value : worker->outputs) {
        if (value) api_->ReleaseValue(value);
      }
    }
    for (auto& batch : batches_) {
      for (OrtValue* value : batch) api_->ReleaseValue(value);
    }
    if (memory_) api_->ReleaseMemoryInfo(memory_);
    if (session_) api_->ReleaseSession(session_);
    if (env_) api_->ReleaseEnv(env_);
  }

  Figures run(double ramp_s, double seconds) override {
    for (auto& worker : workers_) worker->figures = {};
    {
      const std::lock_guard lock(mutex_);
      running_.store(true);
      ++round_;
      at_work_ = workers_.size();
    }
    changed_.notify_all();
    std::this_thread::sleep_for(std::chrono::duration<double>(ramp_s));
    counting_.store(true);
    const auto start = Clock::now();
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    counting_.store(false);
    const auto end = Clock::now();
    running_.store(false);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return at_work_ == 0; });
    Figures all;
    all.seconds = std::chrono::duration<double>(end - start).count();
    for (auto& worker : workers_) {
      all.requests += worker->figures.requests;
      all.items += worker->figures.items;
      all.latency.merge(worker->figures.latency);
      if (all.error.empty()) all.error = worker->figures.error;
    }
    return all;
  }

  std::vector<std::string> run_once(std::size_t batch, std::string& error) override {
    std::vector<std::string> out;
    try {
      std::vector<OrtValue*> values(setup_.outputs.size());
      check(api_->Run(session_, nullptr, input_names_.data(), batches_.at(batch).data(),
                      input_names_.size(), output_names_.data(), output_names_.size(),
                      values.data()));
      for (std::size_t i = 0; i < values.size(); ++i) {
        out.push_back(contents_of(values[i]));
        api_->ReleaseValue(values[i]);
      }
    } catch (const std::exception& what) {
      error = what.what();
      out.clear();
    }
    return out;
  }

 private:
  struct Worker {
    std::vector<OrtValue*> outputs;  // null: the library allocates, anew for each run
    std::vector<bool> ours;
    std::vector<std::vector<std::byte>> memory;
    std::vector<std::byte> copied;  // where the naive loop takes its outputs
    std::size_t next_batch = 0;
    std::uint64_t round = 0;
    Figures figures;
    std::thread thread;
  };

  Onnx(const OnnxSetup& setup, const OrtApi* api) : setup_(setup), api_(api) {}

  void check(OrtStatus* status) const {
    if (!status) return;
    const std::string message = api_->GetErrorMessage(status);
    api_->ReleaseStatus(status);
    throw std::runtime_error("ONNX Runtime: " + message);
  }

  void open_session() {
    OrtSessionOptions* options = nullptr;
    check(api_->CreateSessionOptions(&options));
    check(api_->SetIntraOpNumThreads(options, setup_.intra_threads));
    if (!setup_.naive) {
      check(api_->SetInterOpNumThreads(options, 1));
      check(api_->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
      check(api_->AddSessionConfigEntry(options, "session.intra_op.allow_spinning",
                                        setup_.spinning ? "1" : "0"));
    }
    OrtStatus* const status =
        setup_.content ? api_->CreateSessionFromArray(env_, setup_.content->data(),
                                                      setup_.content->size(), options, &session_)
                       : api_->CreateSession(env_, setup_.model.c_str(), options, &session_);
    api_->ReleaseSessionOptions(options);
    check(status);
  }

  OrtValue* wrap(const Tensor& tensor) const {
    OrtValue* value = nullptr;
    check(api_->CreateTensorWithDataAsOrtValue(
        memory_, tensor.data, tensor.bytes, tensor.shape.data(), tensor.shape.size(),
        static_cast<ONNXTensorElementDataType>(tensor.element_type), &value));
    return value;
  }

  void make_outputs(Worker& worker) const {
    for (const Tensor& output : setup_.outputs) {
      bool known = !setup_.naive && output.bytes > 0;
      for (const std::int64_t size : output.shape) known = known && size >= 0;
      worker.ours.push_back(known);
      worker.memory.emplace_back(known ? output.bytes : 0);
      Tensor place = output;
      place.data = worker.memory.back().data();
      worker.outputs.push_back(known ? wrap(place) : nullptr);
    }
  }

  std::string contents_of(OrtValue* value) const {
    const std::size_t bytes = bytes_of(value);
    void* data = nullptr;
    check(api_->GetTensorMutableData(value, &data));
    return std::string(static_cast<const char*>(data), bytes);
  }

  std::size_t bytes_of(const OrtValue* value) const {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api_->GetTensorTypeAndShape(value, &info));
    std::size_t count = 0;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    OrtStatus* status = api_->GetTensorShapeElementCount(info, &count);
    if (!status) status = api_->GetTensorElementType(info, &type);
    api_->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    return count * size_of(type);
  }

  static std::size_t size_of(ONNXTensorElementDataType type) {
    switch (type) {
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2:
        return 1;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
        return 2;
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64:
      case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE:
        return 8;
      default:
        return 4;
    }
  }

  void work(Worker& worker) {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || worker.round != round_; });
        if (stopping_) return;
        worker.round = round_;
      }
      try {
        loop(worker);
      } catch (const std::exception& what) {
        worker.figures.error = what.what();
      }
      const std::lock_guard lock(mutex_);
      if (--at_work_ == 0) changed_.notify_all();
    }
  }

  void loop(Worker& worker) {
    while (running_.load(std::memory_order_relaxed)) {
      const std::size_t batch = worker.next_batch;
      worker.next_batch = batch + 1 == batches_.size() ? 0 : batch + 1;
      const auto start = Clock::now();
      if (setup_.naive)
        run_naively(worker, batch);
      else
        run_bound(worker, batch);
      const auto end = Clock::now();
      if (!counting_.load(std::memory_order_relaxed)) continue;
      worker.figures.latency.record(
          static_cast<std::uint64_t>(std::chrono::nanoseconds(end - start).count()));
      ++worker.figures.requests;
      worker.figures.items += static_cast<std::uint64_t>(setup_.items);
    }
  }

  void run_bound(Worker& worker, std::size_t batch) const {
    check(api_->Run(session_, nullptr, input_names_.data(), batches_[batch].data(),
                    input_names_.size(), output_names_.data(), output_names_.size(),
                    worker.outputs.data()));
    for (std::size_t i = 0; i < worker.outputs.size(); ++i) {
      if (worker.ours[i]) continue;
      api_->ReleaseValue(worker.outputs[i]);
      worker.outputs[i] = nullptr;
    }
  }

  void run_naively(Worker& worker, std::size_t batch) const {
    std::vector<OrtValue*> inputs;
    for (const Tensor& tensor : setup_.batches[batch]) inputs.push_back(wrap(tensor));
    std::vector<OrtValue*> outputs(output_names_.size());
    OrtStatus* const status =
        api_->Run(session_, nullptr, input_names_.data(), inputs.data(), inputs.size(),
                  output_names_.data(), outputs.size(), outputs.data());
    for (OrtValue* value : inputs) api_->ReleaseValue(value);
    check(status);
    for (OrtValue* value : outputs) {
      worker.copied.resize(bytes_of(value));
      void* data = nullptr;
      check(api_->GetTensorMutableData(value, &data));
      if (!worker.copied.empty()) std::memcpy(worker.copied.data(), data, worker.copied.size());
      api_->ReleaseValue(value);
    }
  }

  const OnnxSetup setup_;
  const OrtApi* api_;
  OrtEnv* env_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  std::vector<std::vector<OrtValue*>> batches_;
  std::vector<const char*> input_names_;   // into setup_
  std::vector<const char*> output_names_;  // into setup_

  std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t round_ = 0;  // guarded by mutex_
  std::size_t at_work_ = 0;  // guarded by mutex_
  bool stopping_ = false;    // guarded by mutex_
  std::atomic<bool> running_{false};
  std::atomic<bool> counting_{false};
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace

std::unique_ptr<OnnxLoop> make_onnx_loop(const OnnxSetup& setup, std::string& error) {
  try {
    if (setup.batches.empty())
      throw std::runtime_error("expected at least one batch to run, got none");
    return std::make_unique<Onnx>(setup);
  } catch (const std::exception& what) {
    error = what.what();
    return nullptr;
  }
}

}  // namespace direct
