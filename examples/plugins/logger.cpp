#include <atomic>

#include "library.h"
#include "plugin_base.h"

namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

}  // namespace

void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { logger_finder = finder; }

namespace millrace::plugins {

void log_error(const char* message) noexcept {
  nvinfer1::ILoggerFinder* const finder = logger_finder;
  nvinfer1::ILogger* const logger = finder == nullptr ? nullptr : finder->findLogger();
  if (logger != nullptr) logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

}  // namespace millrace::plugins
