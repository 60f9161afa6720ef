// What a caller says about shared memory, sizes, deadlines and priorities, up to the memory it
// shares.
#include "server/submit_call.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/test_service.h"
#include "server/test_shared_object.h"
#include "server/wire_bytes.h"

namespace millrace::server {
namespace {

using ::testing::HasSubstr;
using testing::SharedObject;

constexpr std::size_t kPage = 4096;

class SubmitCall : public testing::ServiceFixture {
 protected:
  SubmitCall() {
    add("echo", "reference:identity?type=FP32&shape=4", "max_batch_size: 8");
    add("wide", "reference:identity?type=FP32&shape=-1", "max_batch_size: 8");
    add("text", "reference:identity?type=BYTES&shape=2", "max_batch_size: 8");
    add("late", "reference:busy?mode=sleep&batch_us=100000&type=FP32&shape=4",
        "max_batch_size: 1 dynamic_batching { priority_levels: 2 default_priority_level: 2 }");
    add("named", "reference:identity?type=FP32&shape=4",
        "max_batch_size: 8 output [{ name: \"output\" data_type: TYPE_FP32 dims: [4] "
        "label_filename: \"labels.txt\" }]");
    folder_.write("named/labels.txt", "a\nb\nc\nd\n");
    ServiceOptions all;
    all.client_shared_memory = true;
    open(all);
    std::fill_n(object_.as<unsigned char>(), 4 * kPage, kUntouched);
    EXPECT_TRUE(regions().register_system("all", object_.name(), 0, 4 * kPage).ok());
  }
  [[nodiscard]] MemoryRegions& regions() const { return **service_->system_memory(); }

  /// Of two items, eight numbers.
  [[nodiscard]] Call call_of(const std::string& model) const {
    Call call;
    call.model = model;
    CallInput& input = call.inputs.emplace_back();
    input.name = "input";
    input.shape = {2, 4};
    input.raw = {numbers_.data(), numbers_.size() * sizeof(float)};
    return call;
  }
  [[nodiscard]] Call call_into(const std::string& model, const RegionSlice& region,
                               std::int64_t classes = 0) const {
    Call call = call_of(model);
    call.outputs.push_back({"output", classes, region});
    return call;
  }
  [[nodiscard]] Call one_for_late() const {
    Call call = call_of("late");
    call.inputs[0].shape = {1, 4};
    call.inputs[0].raw->second = 4 * sizeof(float);
    return call;
  }
  [[nodiscard]] std::string refusal(Call call) const {
    const Result<Answer> answer = infer(std::move(call));
    if (answer.ok()) return "no error";
    EXPECT_EQ(answer.error().code, ErrorCode::invalid_argument);
    return answer.error().message;
  }
  [[nodiscard]] bool untouched(std::size_t from, std::size_t to) const {
    const auto* bytes = object_.as<unsigned char>();
    return std::all_of(bytes + from, bytes + to, [](unsigned char c) { return c == kUntouched; });
  }
  [[nodiscard]] std::vector<float> floats_at(std::size_t offset, std::size_t count) const {
    std::vector<float> out(count);
    std::memcpy(out.data(), object_.as<char>(offset), count * sizeof(float));
    return out;
  }

  static constexpr unsigned char kUntouched = 0x5A;
  const SharedObject object_{"submit", 4 * kPage};
  const std::vector<float> numbers_ = {1, 2, 3, 4, 8, 7, 6, 5};
};

TEST_F(SubmitCall, OutputsGoToTheirSliceAndNotBeyond) {
  for (const char* const model : {"echo", "wide"}) {  // of known size, and of one known afterwards
    const Result<Answer> answer = infer(call_into(model, {"all", 64, 32}));
    ASSERT_TRUE(answer.ok()) << answer.error().message;
    const std::optional<RegionSlice>& region = answer->outputs[0].region;
    ASSERT_TRUE(region);
    EXPECT_EQ(region->region, "all");
    EXPECT_EQ(region->offset, 64U);
    EXPECT_EQ(region->bytes, 32U);
    EXPECT_EQ(floats_at(64, 8), numbers_);
    EXPECT_TRUE(untouched(0, 64) && untouched(96, 4 * kPage));
    std::fill_n(object_.as<unsigned char>(), 128, kUntouched);
  }
}

TEST_F(SubmitCall, OutputsLargerThanTheirSliceAreRefused) {
  for (const char* const model : {"echo", "wide"}) {
    EXPECT_THAT(refusal(call_into(model, {"all", 64, 31})), HasSubstr("takes 32 bytes")) << model;
    EXPECT_TRUE(untouched(0, 4 * kPage)) << model;
  }
  EXPECT_THAT(refusal(call_into("echo", {"all", 64, 21}, 2)), HasSubstr("takes"));
  EXPECT_THAT(refusal(call_into("echo", {"all", 4 * kPage - 16, 32})), HasSubstr("16384 bytes"));
  EXPECT_TRUE(untouched(0, 4 * kPage));
}

TEST_F(SubmitCall, SlicesThatStartAtOddAddressesAreCopied) {
  std::memcpy(object_.as<char>(kPage + 1), numbers_.data(), 32);
  Call call = call_into("echo", {"all", 3, 32});
  call.inputs[0].raw.reset();
  call.inputs[0].region = RegionSlice{"all", kPage + 1, 32};
  const Result<Answer> answer = infer(std::move(call));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  EXPECT_EQ(floats_at(3, 8), numbers_);
  EXPECT_TRUE(untouched(0, 3) && untouched(35, kPage));
}

TEST_F(SubmitCall, InputsHaveTheSizeOfTheirSlice) {
  for (const std::size_t bytes : {0, 28, 31, 33, 36}) {
    Call call = call_of("echo");
    call.inputs[0].raw.reset();
    call.inputs[0].region = RegionSlice{"all", 0, bytes};
    EXPECT_THAT(refusal(std::move(call)), HasSubstr("expected 32 bytes")) << bytes;
  }
}

TEST_F(SubmitCall, ClassesGoIntoASliceAsTexts) {
  const Result<Answer> answer = infer(call_into("echo", {"all", 8, 512}, 2));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  const AnsweredOutput& output = answer->outputs[0];
  EXPECT_EQ(output.type, DataType::bytes);
  EXPECT_EQ(output.shape, (Shape{2, 2}));
  EXPECT_EQ(output.region->offset, 8U);
  const Tensor texts =
      *read_wire_bytes({object_.as<std::byte>(8), output.region->bytes}, output.shape, "texts");
  EXPECT_EQ(texts.string_at(0), "4:3");
  EXPECT_EQ(texts.string_at(3), "7:1");
  EXPECT_TRUE(untouched(0, 8) && untouched(8 + output.region->bytes, 4 * kPage));
  Call more = call_of("echo");
  more.outputs.push_back({"output", 9, {}});
  EXPECT_EQ(infer(std::move(more))->outputs[0].shape, (Shape{2, 4})) << "there are only 4";
}

TEST_F(SubmitCall, TheLastClassHasItsLabelToo) {
  Call call = call_of("named");
  call.outputs.push_back({"output", 1, {}});
  const Result<Answer> answer = infer(std::move(call));
  ASSERT_TRUE(answer.ok()) << answer.error().message;
  const Tensor texts(answer->outputs[0].view, answer->outputs[0].lease);
  EXPECT_EQ(texts.string_at(0), "4:3:d");
  EXPECT_EQ(texts.string_at(1), "8:0:a");
}

TEST_F(SubmitCall, MemoryThatIsGoneFailsWhoWritesOrReadsThere) {
  ASSERT_TRUE(regions().register_system("out", object_.name(), 0, 4 * kPage).ok());
  ASSERT_TRUE(regions().register_system("rows", object_.name(), 0, 4 * kPage).ok());
  object_.resize(kPage);
  EXPECT_THAT(refusal(call_into("echo", {"out", 2 * kPage, 64})), HasSubstr("became shorter"));
  Call rows;
  rows.model = "text";
  CallInput& input = rows.inputs.emplace_back();
  input.name = "input";
  input.type = DataType::bytes;
  input.shape = {1, 2};
  input.region = RegionSlice{"rows", 2 * kPage, 8};  // two empty texts, where zeros were made up
  EXPECT_THAT(refusal(std::move(rows)), HasSubstr("became shorter"));
}

TEST_F(SubmitCall, ARegionIsWholeAgainWhenItIsRegisteredAgain) {
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(regions().register_system("again", object_.name(), 0, 4 * kPage).ok());
    EXPECT_TRUE(infer(call_into("echo", {"again", 2 * kPage, 64})).ok()) << i;
    object_.resize(kPage);
    EXPECT_FALSE(infer(call_into("echo", {"again", 2 * kPage, 64})).ok());
    object_.resize(4 * kPage);
    regions().unregister("again");
  }
}

// As many as may be at a time, and as often as one likes.
TEST_F(SubmitCall, PlacesOfRegionsAreUsedAgain) {
  for (int i = 0; i < 5000; ++i) {
    // The memory of the last ones goes a little later.
    while (true) {
      const Result<void> made = regions().register_system("r", object_.name(), 0, 1);
      if (made.ok()) break;
      ASSERT_EQ(made.error().code, ErrorCode::out_of_memory) << made.error().message;
      ASSERT_LT(i, 4096) << "no place became free";
      std::this_thread::yield();
    }
    regions().unregister("r");
  }
}

TEST_F(SubmitCall, ManyMoreElementsThanBytesTakeNoMemory) {
  const std::string wire("\xFF\xFF\xFF\x7F\0\0\0\0", 8);
  Call call;
  call.model = "text";
  CallInput& input = call.inputs.emplace_back();
  input.name = "input";
  input.type = DataType::bytes;
  input.raw = {wire.data(), wire.size()};
  input.shape = {1, 2};  // the first claims 2 GiB
  EXPECT_THAT(refusal(call), HasSubstr("does not fit"));
  call.inputs[0].shape = {std::int64_t{1} << 59, 2};
  EXPECT_THAT(refusal(call), HasSubstr("expected"));
}

// -------------------------------------------------------------------------------------------------
// deadlines and priorities

TEST_F(SubmitCall, TheSoonerOfTwoDeadlinesCounts) {
  const auto code = [this](std::optional<Duration> deadline, std::int64_t timeout_us) {
    Call call = one_for_late();
    if (deadline) call.deadline = Clock::now() + *deadline;
    call.parameters.set("timeout", timeout_us);
    const Result<Answer> answer = infer(std::move(call));
    return answer.ok() ? ErrorCode::internal : answer.error().code;
  };
  // The model is busy for longer than the short ones.
  std::vector<std::future<Result<Answer>>> busy;
  for (int i = 0; i < 8; ++i) {
    busy.push_back(std::async(std::launch::async, [this] { return infer(one_for_late()); }));
  }
  while ((*service_->repository().find("late", ""))->model.statistics().batches < 1) {
    std::this_thread::yield();
  }
  constexpr std::int64_t kLong = 3'600'000'000;
  EXPECT_EQ(code({}, 1), ErrorCode::deadline_exceeded);
  EXPECT_EQ(code(std::chrono::hours(1), 1), ErrorCode::deadline_exceeded);
  EXPECT_EQ(code(std::chrono::microseconds(1), kLong), ErrorCode::deadline_exceeded);
  EXPECT_EQ(code(std::chrono::hours(1), kLong), ErrorCode::internal);
  EXPECT_EQ(code({}, INT64_MAX), ErrorCode::internal);
  for (auto& one : busy) EXPECT_TRUE(one.get().ok());
}

TEST_F(SubmitCall, ParametersThatCannotBeAreRefused) {
  for (const char* const name : {"timeout", "priority"}) {
    for (const Parameter& value : {Parameter(std::int64_t{-1}), Parameter(1.5), Parameter(true),
                                   Parameter(std::string("1"))}) {
      Call call = call_of("echo");
      call.parameters.set(name, value);
      EXPECT_THAT(refusal(std::move(call)), HasSubstr(name));
    }
  }
}

TEST_F(SubmitCall, WhoHasPriorityIsServedFirst) {
  constexpr int kOrdinary = 8;
  std::mutex mutex;
  std::vector<int> order;
  const auto submit = [&](int index, std::int64_t priority) {
    Call call = one_for_late();
    call.parameters.set("priority", priority);
    const auto ticket = service_->infer(std::move(call), [&, index](const Result<Answer>&, bool) {
      const std::lock_guard lock(mutex);
      order.push_back(index);
    });
    ASSERT_TRUE(ticket.ok()) << ticket.error().message;
  };
  for (int i = 0; i < kOrdinary; ++i) submit(i, 2);
  submit(kOrdinary, 1);
  for (bool all = false; !all; std::this_thread::yield()) {
    const std::lock_guard lock(mutex);
    all = order.size() == kOrdinary + 1;
  }
  EXPECT_NE(order.back(), kOrdinary);
}

}  // namespace
}  // namespace millrace::server
