#include <millrace/device.h>

#include <charconv>
#include <utility>

#include "base/text.h"
#include "device/impl.h"

namespace millrace {
namespace {

template <class... Pieces>
Error bad_argument(const Pieces&... pieces) {
  return {ErrorCode::invalid_argument, concat(pieces...)};
}

Error null_stream(const char* what) {
  return bad_argument(what, ": expected a stream, got a ref that names none");
}

}  // namespace

std::string to_string(DeviceId id) {
  if (id.is_host_memory()) return "host";
  return concat(id.kind == DeviceKind::host ? "host:" : "cuda:", id.index);
}

Result<DeviceId> parse_device_id(std::string_view text) {
  if (text == "host") return DeviceId::host(0);
  DeviceKind kind = DeviceKind::cuda;
  std::string_view digits = text;
  if (text.starts_with("host:")) {
    kind = DeviceKind::host;
    digits.remove_prefix(5);
  } else if (text.starts_with("cuda:")) {
    digits.remove_prefix(5);
  }
  std::int32_t index = 0;
  const char* end = digits.data() + digits.size();
  auto [stop, status] = std::from_chars(digits.data(), end, index);
  if (status != std::errc{} || stop != end || index < 0) {
    return bad_argument("device ", quote(text),
                        ": expected \"0\", \"cuda:0\", \"host\" or \"host:0\", with any index");
  }
  return DeviceId{kind, index};
}

// EventRef

DeviceId EventRef::device() const noexcept { return impl_ ? impl_->device() : DeviceId{}; }

Result<bool> EventRef::query() const {
  if (!impl_) return true;
  return impl_->query();
}

Result<void> EventRef::synchronize() const {
  if (!impl_) return {};
  return impl_->synchronize();
}

Result<TimePoint> EventRef::time() const {
  if (!impl_) return bad_argument("event time: expected an event, got a ref that names none");
  return impl_->time();
}

// Event

Event::Event() noexcept = default;
Event::Event(std::unique_ptr<EventImpl> impl) noexcept : impl_(std::move(impl)) {}
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;
Event::~Event() = default;

// StreamRef

DeviceId StreamRef::device() const noexcept { return impl_ ? impl_->device() : DeviceId{}; }

Result<void> StreamRef::copy(void* target, const void* source, std::size_t bytes) const {
  if (!impl_) return null_stream("copy");
  if (bytes == 0) return {};
  if (!target || !source) {
    return bad_argument("copy of ", bytes, " bytes: the ", target ? "source" : "target",
                        " is a null address");
  }
  return impl_->copy(target, source, bytes);
}

Result<void> StreamRef::gather(std::span<const CopyPiece> pieces) const {
  if (!impl_) return null_stream("gather");
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].bytes != 0 && (!pieces[i].target || !pieces[i].source)) {
      return bad_argument("gather: piece ", i, " of ", pieces[i].bytes,
                          " bytes has a null address");
    }
  }
  if (pieces.empty()) return {};
  return impl_->gather(pieces);
}

Result<void> StreamRef::fill(void* target, std::uint8_t value, std::size_t bytes) const {
  if (!impl_) return null_stream("fill");
  if (bytes == 0) return {};
  if (!target) {
    return bad_argument("fill of ", bytes, " bytes: the target is a null address");
  }
  return impl_->fill(target, value, bytes);
}

Result<void> StreamRef::run(std::function<void()> task) const {
  if (!impl_) return null_stream("run");
  if (!task) return bad_argument("run: the function is empty");
  return impl_->run(std::move(task));
}

Result<void> StreamRef::record(EventRef event) const {
  if (!impl_) return null_stream("record");
  if (!event) return bad_argument("record: expected an event, got a ref that names none");
  if (event.device() != impl_->device()) {
    return bad_argument("record: expected an event of ", impl_->device(),
                        ", the stream's device, got one of ", event.device());
  }
  return impl_->record(*event.impl());
}

Result<void> StreamRef::wait(EventRef event) const {
  if (!impl_) return null_stream("wait");
  if (!event) return {};
  return impl_->wait(*event.impl());
}

Result<void> StreamRef::signal(std::atomic<std::uint64_t>& word, std::uint64_t value,
                               Waker* waker) const {
  if (!impl_) return null_stream("signal");
  return impl_->signal(word, value, waker);
}

Result<bool> StreamRef::query() const {
  if (!impl_) return null_stream("query");
  return impl_->query();
}

Result<void> StreamRef::synchronize() const {
  if (!impl_) return null_stream("synchronize");
  return impl_->synchronize();
}

void* StreamRef::native_handle() const noexcept { return impl_ ? impl_->native_handle() : nullptr; }

// Stream

Stream::Stream() noexcept = default;
Stream::Stream(std::unique_ptr<StreamImpl> impl) noexcept : impl_(std::move(impl)) {}
Stream::Stream(Stream&&) noexcept = default;
Stream& Stream::operator=(Stream&&) noexcept = default;
Stream::~Stream() = default;

void Stream::abandon() noexcept {
  if (!impl_) return;
  impl_->abandon();
  impl_.reset();
}

// Buffer

Buffer::Buffer(Buffer&& other) noexcept
    : device_(other.device_),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      kind_(other.kind_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  Buffer taken(std::move(other));
  std::swap(device_, taken.device_);
  std::swap(data_, taken.data_);
  std::swap(bytes_, taken.bytes_);
  std::swap(kind_, taken.kind_);
  return *this;
}

Buffer::~Buffer() {
  if (data_) device_->free(data_, bytes_, kind_);
}

DeviceId Buffer::device() const noexcept {
  return device_ && kind_ == MemoryKind::device ? device_->id() : DeviceId::host_memory();
}

void* Buffer::release() noexcept {
  bytes_ = 0;
  return std::exchange(data_, nullptr);
}

}  // namespace millrace
