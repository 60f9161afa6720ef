#include "io/npz.h"

#include <algorithm>
#include <set>

#include "base/file.h"
#include "base/text.h"
#include "base/try.h"
#include "io/npy.h"
#include "io/zip.h"

namespace millrace {
namespace {

constexpr std::string_view kSuffix = ".npy";

}  // namespace

Result<std::vector<NamedArray>> parse_npz(std::string_view bytes, std::string_view source) {
  MILLRACE_ASSIGN(const std::vector<ZipMember> members, read_zip(bytes, source));
  std::vector<NamedArray> arrays;
  std::set<std::string> names;
  for (const ZipMember& member : members) {
    std::string name = member.name;
    if (!name.ends_with(kSuffix)) {
      return Error{ErrorCode::invalid_argument,
                   concat(source, ": expected members whose names end in .npy, got ", quote(name))};
    }
    name.resize(name.size() - kSuffix.size());
    if (!names.insert(name).second) {
      return Error{ErrorCode::invalid_argument,
                   concat(source, ": there are two arrays ", quote(name))};
    }
    std::string owned;
    MILLRACE_ASSIGN(const std::string_view content, unpack(member, owned, source));
    MILLRACE_ASSIGN(const Tensor tensor,
                    parse_npy(content, concat(source, ": array ", quote(name))));
    arrays.push_back({std::move(name), tensor.view(), tensor.lease()});
  }
  return arrays;
}

Result<std::vector<NamedArray>> read_npz(const std::string& path) {
  MILLRACE_ASSIGN(const std::string bytes, read_file(path));
  return parse_npz(bytes, path);
}

Result<void> write_npz(std::span<const NamedTensor> arrays, const std::string& path) {
  MILLRACE_ASSIGN(AtomicFile file, AtomicFile::create(path));
  ZipWriter writer(file);
  for (const NamedTensor& array : arrays) {
    NpyParts parts;
    Result<void> made = make_npy(array.view, parts);
    if (!made.ok()) {
      return Error{made.error().code, concat("cannot write ", quote(path), ": array ",
                                             quote(array.name), ": ", made.error().message)};
    }
    MILLRACE_TRY(writer.add(concat(array.name, kSuffix), parts.header, parts.data));
  }
  MILLRACE_TRY(writer.finish());
  return file.commit();
}

}  // namespace millrace
