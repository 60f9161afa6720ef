#include <millrace/lease.h>

#include <exception>

#include "base/log.h"

namespace millrace {
namespace {

class ReleaseFunction final : public Lease::Counted {
 public:
  explicit ReleaseFunction(std::function<void()> release) : release_(std::move(release)) {}
  void dispose() noexcept override {
    try {
      if (release_) release_();
    } catch (const std::exception& e) {
      log_error("a release callback threw: ", e.what());
    } catch (...) {
      log_error("a release callback threw an exception of unknown type");
    }
    delete this;
  }

 private:
  std::function<void()> release_;
};

class SharedOwner final : public Lease::Counted {
 public:
  explicit SharedOwner(std::shared_ptr<const void> owner) : owner_(std::move(owner)) {}
  void dispose() noexcept override { delete this; }

 private:
  std::shared_ptr<const void> owner_;
};

}  // namespace

Lease Lease::on_release(std::function<void()> release) {
  return adopt(new ReleaseFunction(std::move(release)));
}

Lease Lease::share(std::shared_ptr<const void> owner) {
  return adopt(new SharedOwner(std::move(owner)));
}

}  // namespace millrace
