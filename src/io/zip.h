// Zip archives, as far as .npz files need them: members stored or deflated, sizes beyond 4 GiB
// included.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace millrace {

/// A member as the archive's directory describes it; `packed` lies in the archive's bytes.
struct ZipMember {
  std::string name;
  std::string_view packed;
  std::uint64_t bytes = 0;  // unpacked
  std::uint32_t checksum = 0;
  bool deflated = false;
};

/// The members in the directory's order (folders are left out). `bytes` must outlive them. Errors:
/// invalid_argument (no archive, cut short, places outside of it), unsupported (encrypted, split
/// over several files, another compression).
[[nodiscard]] Result<std::vector<ZipMember>> read_zip(std::string_view bytes,
                                                      std::string_view source);

/// The content of a member: `packed` itself when stored, else in `owned`. Errors: invalid_argument
/// when size or checksum are not those announced; out_of_memory.
[[nodiscard]] Result<std::string_view> unpack(const ZipMember& member, std::string& owned,
                                              std::string_view source);

/// Writes members one after another, stored. `finish` writes the directory; committing the file is
/// the caller's. Errors: those of the file.
class ZipWriter {
 public:
  explicit ZipWriter(AtomicFile& file) noexcept : file_(file) {}
  /// The content is `first` followed by `second`. Names: at most 65535 bytes.
  Result<void> add(std::string_view name, std::string_view first, std::string_view second);
  Result<void> finish();

 private:
  struct Entry {
    std::string name;
    std::uint64_t bytes = 0;
    std::uint64_t offset = 0;
    std::uint32_t checksum = 0;
  };
  Result<void> write(std::string_view bytes);

  AtomicFile& file_;
  std::vector<Entry> entries_;
  std::uint64_t written_ = 0;
};

}  // namespace millrace
