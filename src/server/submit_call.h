// From a call to the engine's request, and from its response to the answer.
#pragma once

#include <memory>

#include "repository/model_repository.h"
#include "server/call.h"
#include "server/memory_regions.h"

namespace millrace::server {

struct Regions {
  const MemoryRegions& system;
  const MemoryRegions& cuda;

  /// Of either kind. Errors: as MemoryRegions::find.
  [[nodiscard]] Result<RegionMemory> find(const RegionSlice& slice) const;
};

/// As Service::infer, for a version that was found.
Result<Ticket> submit_call(const Regions& regions, std::shared_ptr<const ServedModel> served,
                           Call call, AnswerCallback callback);

}  // namespace millrace::server
