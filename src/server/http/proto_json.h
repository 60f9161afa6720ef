// Messages of protobuf as JSON, as clients of this protocol expect them.
#pragma once

#include <string>

namespace google::protobuf {
class Message;
}

namespace millrace::server {

/// With the names of the definition, every single field also where it was not set (messages only
/// where they were), and 64-bit numbers as numbers.
[[nodiscard]] std::string to_json(const google::protobuf::Message& message);

}  // namespace millrace::server
