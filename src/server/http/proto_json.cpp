#include "server/http/proto_json.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cmath>
#include <cstdint>

#include "server/http/json.h"

namespace millrace::server {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

void append_message(std::string& out, const Message& message);

template <class T>
void append_real(std::string& out, T value) {
  if (std::isfinite(value)) {
    append_json_number(out, value);
  } else {
    out += "null";
  }
}

// Element `i` of a repeated field, or (i < 0) a single one.
void append_value(std::string& out, const Message& message, const FieldDescriptor& field, int i) {
  const Reflection& of = *message.GetReflection();
  const auto get = [&](auto single, auto repeated) {
    return i < 0 ? (of.*single)(message, &field) : (of.*repeated)(message, &field, i);
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return append_json_number(
          out, std::int64_t{get(&Reflection::GetInt32, &Reflection::GetRepeatedInt32)});
    case FieldDescriptor::CPPTYPE_INT64:
      return append_json_number(
          out, std::int64_t{get(&Reflection::GetInt64, &Reflection::GetRepeatedInt64)});
    case FieldDescriptor::CPPTYPE_UINT32:
      return append_json_number(
          out, std::uint64_t{get(&Reflection::GetUInt32, &Reflection::GetRepeatedUInt32)});
    case FieldDescriptor::CPPTYPE_UINT64:
      return append_json_number(
          out, std::uint64_t{get(&Reflection::GetUInt64, &Reflection::GetRepeatedUInt64)});
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return append_real(out, get(&Reflection::GetDouble, &Reflection::GetRepeatedDouble));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return append_real(out, get(&Reflection::GetFloat, &Reflection::GetRepeatedFloat));
    case FieldDescriptor::CPPTYPE_BOOL:
      out += get(&Reflection::GetBool, &Reflection::GetRepeatedBool) ? "true" : "false";
      return;
    case FieldDescriptor::CPPTYPE_ENUM:
      return append_json_string(out,
                                get(&Reflection::GetEnum, &Reflection::GetRepeatedEnum)->name());
    case FieldDescriptor::CPPTYPE_STRING:
      return append_json_string(out, get(&Reflection::GetString, &Reflection::GetRepeatedString));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return append_message(
          out, i < 0 ? of.GetMessage(message, &field) : of.GetRepeatedMessage(message, &field, i));
  }
}

void append_map(std::string& out, const Message& message, const FieldDescriptor& field) {
  const Reflection& of = *message.GetReflection();
  out += '{';
  for (int i = 0; i < of.FieldSize(message, &field); ++i) {
    const Message& entry = of.GetRepeatedMessage(message, &field, i);
    const FieldDescriptor& key = *field.message_type()->map_key();
    if (i > 0) out += ',';
    std::string name;
    append_value(name, entry, key, -1);
    out += key.cpp_type() == FieldDescriptor::CPPTYPE_STRING ? name : '"' + name + '"';
    out += ':';
    append_value(out, entry, *field.message_type()->map_value(), -1);
  }
  out += '}';
}

void append_list(std::string& out, const Message& message, const FieldDescriptor& field) {
  out += '[';
  for (int i = 0; i < message.GetReflection()->FieldSize(message, &field); ++i) {
    if (i > 0) out += ',';
    append_value(out, message, field, i);
  }
  out += ']';
}

void append_message(std::string& out, const Message& message) {
  char separator = '{';
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *message.GetDescriptor()->field(i);
    const bool optional =
        field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE || field.containing_oneof() != nullptr;
    if (!field.is_repeated() && optional && !message.GetReflection()->HasField(message, &field)) {
      continue;
    }
    out += separator;
    separator = ',';
    append_json_string(out, field.name());
    out += ':';
    if (field.is_map()) {
      append_map(out, message, field);
    } else if (field.is_repeated()) {
      append_list(out, message, field);
    } else {
      append_value(out, message, field, -1);
    }
  }
  if (separator == '{') out += '{';
  out += '}';
}

}  // namespace

std::string to_json(const Message& message) {
  std::string out;
  append_message(out, message);
  return out;
}

}  // namespace millrace::server
