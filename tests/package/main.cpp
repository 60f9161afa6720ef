// Loads a model of the built-in backend and runs one request, through installed headers alone.
#include <millrace/engine.h>
#include <millrace/version.h>

#include <cstdio>
#include <vector>

namespace {

int fail(const millrace::Error& error) {
  std::fprintf(stderr, "%s\n", error.message.c_str());
  return 1;
}

}  // namespace

int main() {
  auto engine = millrace::Engine::create({.devices = {.devices = {"host"}, .host = {}}});
  if (!engine.ok()) return fail(engine.error());
  millrace::ModelConfig config;
  config.name = "echo";
  config.path = "reference:identity?shape=4";
  auto model = engine->load(config);
  if (!model.ok()) return fail(model.error());

  const std::vector<float> sent{1.0F, 2.5F, -3.0F, 4.0F};
  const millrace::TensorInfo& input = model->info().inputs.at(0);
  millrace::Request request;
  request.inputs.push_back({input.name, millrace::TensorView::of(sent.data(), {1, 4}), {}});
  auto answer = model->infer(std::move(request));
  if (!answer.ok()) return fail(answer.error());
  const float* got = answer->outputs[0].view.as<float>();
  for (std::size_t i = 0; i < sent.size(); ++i) {
    if (got[i] != sent[i]) {
      std::fprintf(stderr, "element %zu: expected %g, got %g\n", i, sent[i], got[i]);
      return 3;
    }
  }
  std::printf("millrace %s: 4 numbers went through the engine unchanged\n",
              std::string(millrace::version()).c_str());
  return 0;
}
