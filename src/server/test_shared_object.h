// For tests: a shared-memory object, as a client would make it.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>
#include <utility>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

namespace millrace::testing {

/// An object of this process's own, gone at the end.
class SharedObject {
 public:
  SharedObject(std::string name, std::size_t bytes)
      : name_("/millrace-test-" + std::to_string(getpid()) + "-" + std::move(name)) {
    descriptor_ = shm_open(name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
    EXPECT_GE(descriptor_, 0) << std::strerror(errno);
    resize(bytes);
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
    EXPECT_NE(data_, MAP_FAILED);
    bytes_ = bytes;
  }
  ~SharedObject() {
    munmap(data_, bytes_);
    close(descriptor_);
    shm_unlink(name_.c_str());
  }
  SharedObject(const SharedObject&) = delete;
  SharedObject& operator=(const SharedObject&) = delete;

  void resize(std::size_t bytes) const {
    EXPECT_EQ(ftruncate(descriptor_, static_cast<off_t>(bytes)), 0);
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  template <class T>
  [[nodiscard]] T* as(std::size_t offset = 0) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(data_) + offset);
  }

 private:
  std::string name_;
  int descriptor_ = -1;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace millrace::testing
