#include "server/http/control.h"

namespace millrace::server {
namespace {

// Held against the routes by a test.
constexpr std::string_view kDocument = R"json({
 "openapi": "3.1.0",
 "info": {
  "title": "Millrace",
  "description": "The Open Inference Protocol, version 2, over HTTP, with its extensions",
  "version": "2"},
 "paths": {
  "/v2": {
   "get": {
    "operationId": "serverMetadata",
    "summary": "The server and its extensions",
    "tags": ["server"],
    "responses": {
     "200": {
      "description": "The server",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {
          "name": {"type":"string"},
          "version": {"type":"string"},
          "extensions": {"type":"array","items":{"type":"string"}}},
         "required": ["name","version","extensions"]}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/health/live": {
   "get": {
    "operationId": "serverLive",
    "summary": "Whether the server runs",
    "tags": ["health"],
    "responses": {
     "200": {
      "description": "It does",
      "content": {
       "application/json": {
        "schema": {"type":"object","properties":{"live":{"type":"boolean"}},"required":["live"]}}}},
     "503": {
      "description": "It asks to be started again",
      "content": {
       "application/json": {
        "schema": {"type":"object","properties":{"live":{"type":"boolean"}},"required":["live"]}}}},
     "400": {"$ref":"#/components/responses/Error"}}}},
  "/v2/health/ready": {
   "get": {
    "operationId": "serverReady",
    "summary": "Whether the server takes requests",
    "tags": ["health"],
    "responses": {
     "200": {
      "description": "Whether it is",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {"name":{"type":"string"},"ready":{"type":"boolean"}},
         "required": ["ready"]}}}},
     "503": {
      "description": "It is not, or not now",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {"name":{"type":"string"},"ready":{"type":"boolean"}},
         "required": ["ready"]}}}},
     "400": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "get": {
    "operationId": "modelMetadata",
    "summary": "Names, types and shapes of a model",
    "tags": ["model"],
    "responses": {
     "200": {
      "description": "The model",
      "content": {"application/json":{"schema":{"$ref":"#/components/schemas/ModelMetadata"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/ready": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "get": {
    "operationId": "modelReady",
    "summary": "Whether a model takes requests",
    "tags": ["health"],
    "responses": {
     "200": {
      "description": "Whether it is",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {"name":{"type":"string"},"ready":{"type":"boolean"}},
         "required": ["ready"]}}}},
     "503": {
      "description": "It is not, or not now",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {"name":{"type":"string"},"ready":{"type":"boolean"}},
         "required": ["ready"]}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/config": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "get": {
    "operationId": "modelConfig",
    "summary": "The configuration in force",
    "tags": ["model"],
    "responses": {
     "200": {
      "description": "The configuration, with the names of its definition",
      "content": {"application/json":{"schema":{"type":"object"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/stats": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "get": {
    "operationId": "modelStatistics",
    "summary": "What a model has done",
    "tags": ["statistics"],
    "responses": {
     "200": {
      "description": "By version",
      "content": {"application/json":{"schema":{"$ref":"#/components/schemas/Statistics"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/infer": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "post": {
    "operationId": "infer",
    "summary": "Inference",
    "tags": ["inference"],
    "responses": {
     "200": {
      "description": "The outputs. Binary data comes behind the JSON, whose length Inference-Header-Content-Length tells",
      "headers": {
       "Inference-Header-Content-Length": {"schema":{"type":"integer","format":"int64","minimum":0}},
       "traceresponse": {"schema":{"type":"string"},"description":"The span of a request that is traced, as in traceparent"}},
      "content": {
       "application/json": {"schema":{"$ref":"#/components/schemas/InferResponse"}},
       "application/octet-stream": {"schema":{"type":"string","format":"binary"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "429": {"$ref":"#/components/responses/Error"},
     "499": {"$ref":"#/components/responses/Error"},
     "500": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"},
     "504": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": true,
     "content": {
      "application/json": {
       "schema": {"$ref":"#/components/schemas/InferRequest"},
       "example": {"id":"1","inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}},
      "application/octet-stream": {"schema":{"type":"string","format":"binary"}}}},
    "parameters": [
     {
      "name": "Inference-Header-Content-Length",
      "in": "header",
      "schema": {"type":"integer","format":"int64","minimum":0},
      "description": "Bytes of JSON in front of the binary data, counted before compression; 0: the body is the data of the one input"},
     {
      "name": "Millrace-Timeout",
      "in": "header",
      "schema": {"type":"string","pattern":"^[0-9]+(ns|us|ms|s|min)$"},
      "description": "Work that has not started by then is given up, with 504"},
     {
      "name": "traceparent",
      "in": "header",
      "schema": {"type":"string","pattern":"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
      "description": "W3C Trace Context"}]}},
  "/v2/models/{model}/versions/{version}": {
   "parameters": [{"$ref":"#/components/parameters/model"},{"$ref":"#/components/parameters/version"}],
   "get": {
    "operationId": "modelMetadataVersion",
    "summary": "Names, types and shapes of a model",
    "tags": ["model"],
    "responses": {
     "200": {
      "description": "The model",
      "content": {"application/json":{"schema":{"$ref":"#/components/schemas/ModelMetadata"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/versions/{version}/ready": {
   "parameters": [{"$ref":"#/components/parameters/model"},{"$ref":"#/components/parameters/version"}],
   "get": {
    "operationId": "modelReadyVersion",
    "summary": "Whether a model takes requests",
    "tags": ["health"],
    "responses": {
     "200": {
      "description": "Whether it is",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {"name":{"type":"string"},"ready":{"type":"boolean"}},
         "required": ["ready"]}}}},
     "503": {
      "description": "It is not, or not now",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "properties": {"name":{"type":"string"},"ready":{"type":"boolean"}},
         "required": ["ready"]}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/versions/{version}/config": {
   "parameters": [{"$ref":"#/components/parameters/model"},{"$ref":"#/components/parameters/version"}],
   "get": {
    "operationId": "modelConfigVersion",
    "summary": "The configuration in force",
    "tags": ["model"],
    "responses": {
     "200": {
      "description": "The configuration, with the names of its definition",
      "content": {"application/json":{"schema":{"type":"object"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/versions/{version}/stats": {
   "parameters": [{"$ref":"#/components/parameters/model"},{"$ref":"#/components/parameters/version"}],
   "get": {
    "operationId": "modelStatisticsVersion",
    "summary": "What a model has done",
    "tags": ["statistics"],
    "responses": {
     "200": {
      "description": "By version",
      "content": {"application/json":{"schema":{"$ref":"#/components/schemas/Statistics"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/versions/{version}/infer": {
   "parameters": [{"$ref":"#/components/parameters/model"},{"$ref":"#/components/parameters/version"}],
   "post": {
    "operationId": "inferVersion",
    "summary": "Inference",
    "tags": ["inference"],
    "responses": {
     "200": {
      "description": "The outputs. Binary data comes behind the JSON, whose length Inference-Header-Content-Length tells",
      "headers": {
       "Inference-Header-Content-Length": {"schema":{"type":"integer","format":"int64","minimum":0}},
       "traceresponse": {"schema":{"type":"string"},"description":"The span of a request that is traced, as in traceparent"}},
      "content": {
       "application/json": {"schema":{"$ref":"#/components/schemas/InferResponse"}},
       "application/octet-stream": {"schema":{"type":"string","format":"binary"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "429": {"$ref":"#/components/responses/Error"},
     "499": {"$ref":"#/components/responses/Error"},
     "500": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"},
     "504": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": true,
     "content": {
      "application/json": {
       "schema": {"$ref":"#/components/schemas/InferRequest"},
       "example": {"id":"1","inputs":[{"name":"input","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}},
      "application/octet-stream": {"schema":{"type":"string","format":"binary"}}}},
    "parameters": [
     {
      "name": "Inference-Header-Content-Length",
      "in": "header",
      "schema": {"type":"integer","format":"int64","minimum":0},
      "description": "Bytes of JSON in front of the binary data, counted before compression; 0: the body is the data of the one input"},
     {
      "name": "Millrace-Timeout",
      "in": "header",
      "schema": {"type":"string","pattern":"^[0-9]+(ns|us|ms|s|min)$"},
      "description": "Work that has not started by then is given up, with 504"},
     {
      "name": "traceparent",
      "in": "header",
      "schema": {"type":"string","pattern":"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
      "description": "W3C Trace Context"}]}},
  "/v2/models/stats": {
   "get": {
    "operationId": "allStatistics",
    "summary": "What all models have done",
    "tags": ["statistics"],
    "responses": {
     "200": {
      "description": "By model and version",
      "content": {"application/json":{"schema":{"$ref":"#/components/schemas/Statistics"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/models/{model}/trace/setting": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "get": {
    "operationId": "modelTraceSettings",
    "summary": "Trace settings of a model",
    "tags": ["settings"],
    "responses": {
     "200": {
      "description": "All of them",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "additionalProperties": {
          "anyOf": [
           {"type":"string"},
           {"type":"integer","format":"int64"},
           {"type":"boolean"},
           {"type":"array","items":{"type":"string"}}]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}},
   "post": {
    "operationId": "changeModelTraceSettings",
    "summary": "Changes trace settings of a model",
    "tags": ["settings"],
    "responses": {
     "200": {
      "description": "All of them, as they are now",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "additionalProperties": {
          "anyOf": [
           {"type":"string"},
           {"type":"integer","format":"int64"},
           {"type":"boolean"},
           {"type":"array","items":{"type":"string"}}]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": false,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": {
         "anyOf": [
          {"type":["string","null"]},
          {"type":"integer","format":"int64"},
          {"type":"boolean"},
          {"type":"array","items":{"type":"string"}}]}}}}}}},
  "/v2/trace/setting": {
   "get": {
    "operationId": "traceSettings",
    "summary": "Trace settings",
    "tags": ["settings"],
    "responses": {
     "200": {
      "description": "All of them",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "additionalProperties": {
          "anyOf": [
           {"type":"string"},
           {"type":"integer","format":"int64"},
           {"type":"boolean"},
           {"type":"array","items":{"type":"string"}}]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}},
   "post": {
    "operationId": "changeTraceSettings",
    "summary": "Changes trace settings",
    "tags": ["settings"],
    "responses": {
     "200": {
      "description": "All of them, as they are now",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "additionalProperties": {
          "anyOf": [
           {"type":"string"},
           {"type":"integer","format":"int64"},
           {"type":"boolean"},
           {"type":"array","items":{"type":"string"}}]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": false,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": {
         "anyOf": [
          {"type":["string","null"]},
          {"type":"integer","format":"int64"},
          {"type":"boolean"},
          {"type":"array","items":{"type":"string"}}]}}}}}}},
  "/v2/logging": {
   "get": {
    "operationId": "logSettings",
    "summary": "Log settings",
    "tags": ["settings"],
    "responses": {
     "200": {
      "description": "All of them",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "additionalProperties": {
          "anyOf": [
           {"type":"string"},
           {"type":"integer","format":"int64"},
           {"type":"boolean"},
           {"type":"array","items":{"type":"string"}}]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}},
   "post": {
    "operationId": "changeLogSettings",
    "summary": "Changes log settings",
    "tags": ["settings"],
    "responses": {
     "200": {
      "description": "All of them, as they are now",
      "content": {
       "application/json": {
        "schema": {
         "type": "object",
         "additionalProperties": {
          "anyOf": [
           {"type":"string"},
           {"type":"integer","format":"int64"},
           {"type":"boolean"},
           {"type":"array","items":{"type":"string"}}]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": false,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "additionalProperties": {
         "anyOf": [
          {"type":["string","null"]},
          {"type":"integer","format":"int64"},
          {"type":"boolean"},
          {"type":"array","items":{"type":"string"}}]}}}}}}},
  "/v2/repository/index": {
   "post": {
    "operationId": "repositoryIndex",
    "summary": "Models that are known",
    "tags": ["repository"],
    "responses": {
     "200": {
      "description": "One entry for each version",
      "content": {
       "application/json": {
        "schema": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "name": {"type":"string"},
           "version": {"type":"string"},
           "state": {"type":"string"},
           "reason": {"type":"string"}},
          "required": ["name"]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": false,
     "content": {
      "application/json": {"schema":{"type":"object","properties":{"ready":{"type":"boolean"}}}}}}}},
  "/v2/repository/models/{model}/load": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "post": {
    "operationId": "loadModel",
    "summary": "Loads a model, or loads it again",
    "tags": ["repository"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "500": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": false,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "properties": {"parameters":{"type":"object","additionalProperties":{"type":"string"}}}}}}}}},
  "/v2/repository/models/{model}/unload": {
   "parameters": [{"$ref":"#/components/parameters/model"}],
   "post": {
    "operationId": "unloadModel",
    "summary": "Unloads a model",
    "tags": ["repository"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "500": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": false,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "properties": {
         "parameters": {"type":"object","properties":{"unload_dependents":{"type":"boolean"}}}}}}}}}},
  "/v2/systemsharedmemory/status": {
   "get": {
    "operationId": "allSystemRegions",
    "summary": "Registered regions",
    "tags": ["shared memory"],
    "responses": {
     "200": {
      "description": "All of them",
      "content": {
       "application/json": {
        "schema": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "name": {"type":"string"},
           "key": {"type":"string"},
           "offset": {"type":"integer","format":"int64","minimum":0},
           "byte_size": {"type":"integer","format":"int64","minimum":0}},
          "required": ["name","key","offset","byte_size"]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/systemsharedmemory/region/{region}/status": {
   "parameters": [{"$ref":"#/components/parameters/region"}],
   "get": {
    "operationId": "systemRegion",
    "summary": "A registered region",
    "tags": ["shared memory"],
    "responses": {
     "200": {
      "description": "The one",
      "content": {
       "application/json": {
        "schema": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "name": {"type":"string"},
           "key": {"type":"string"},
           "offset": {"type":"integer","format":"int64","minimum":0},
           "byte_size": {"type":"integer","format":"int64","minimum":0}},
          "required": ["name","key","offset","byte_size"]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/systemsharedmemory/region/{region}/register": {
   "parameters": [{"$ref":"#/components/parameters/region"}],
   "post": {
    "operationId": "registerSystemRegion",
    "summary": "Registers a region",
    "tags": ["shared memory"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "500": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": true,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "properties": {
         "key": {"type":"string"},
         "offset": {"type":"integer","format":"int64","minimum":0},
         "byte_size": {"type":"integer","format":"int64","minimum":0}},
        "required": ["key","byte_size"]}}}}}},
  "/v2/systemsharedmemory/region/{region}/unregister": {
   "parameters": [{"$ref":"#/components/parameters/region"}],
   "post": {
    "operationId": "unregisterSystemRegion",
    "summary": "Unregisters a region",
    "tags": ["shared memory"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/systemsharedmemory/unregister": {
   "post": {
    "operationId": "unregisterAllSystemRegions",
    "summary": "Unregisters all regions",
    "tags": ["shared memory"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/cudasharedmemory/status": {
   "get": {
    "operationId": "allCudaRegions",
    "summary": "Registered regions",
    "tags": ["shared memory"],
    "responses": {
     "200": {
      "description": "All of them",
      "content": {
       "application/json": {
        "schema": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "name": {"type":"string"},
           "device_id": {"type":"integer","format":"int64","minimum":0},
           "byte_size": {"type":"integer","format":"int64","minimum":0}},
          "required": ["name","device_id","byte_size"]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/cudasharedmemory/region/{region}/status": {
   "parameters": [{"$ref":"#/components/parameters/region"}],
   "get": {
    "operationId": "cudaRegion",
    "summary": "A registered region",
    "tags": ["shared memory"],
    "responses": {
     "200": {
      "description": "The one",
      "content": {
       "application/json": {
        "schema": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "name": {"type":"string"},
           "device_id": {"type":"integer","format":"int64","minimum":0},
           "byte_size": {"type":"integer","format":"int64","minimum":0}},
          "required": ["name","device_id","byte_size"]}}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/cudasharedmemory/region/{region}/register": {
   "parameters": [{"$ref":"#/components/parameters/region"}],
   "post": {
    "operationId": "registerCudaRegion",
    "summary": "Registers a region",
    "tags": ["shared memory"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "500": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}},
    "requestBody": {
     "required": true,
     "content": {
      "application/json": {
       "schema": {
        "type": "object",
        "properties": {
         "raw_handle": {"type":"object","properties":{"b64":{"type":"string"}},"required":["b64"]},
         "device_id": {"type":"integer","format":"int64","minimum":0},
         "byte_size": {"type":"integer","format":"int64","minimum":0}},
        "required": ["raw_handle","byte_size"]}}}}}},
  "/v2/cudasharedmemory/region/{region}/unregister": {
   "parameters": [{"$ref":"#/components/parameters/region"}],
   "post": {
    "operationId": "unregisterCudaRegion",
    "summary": "Unregisters a region",
    "tags": ["shared memory"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/v2/cudasharedmemory/unregister": {
   "post": {
    "operationId": "unregisterAllCudaRegions",
    "summary": "Unregisters all regions",
    "tags": ["shared memory"],
    "responses": {
     "200": {"description":"Done; there is no body"},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "408": {"$ref":"#/components/responses/Error"},
     "413": {"$ref":"#/components/responses/Error"},
     "501": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/metrics": {
   "get": {
    "operationId": "metrics",
    "summary": "Metrics for Prometheus",
    "tags": ["server"],
    "responses": {
     "200": {"description":"As text","content":{"text/plain":{"schema":{"type":"string"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "404": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}},
  "/openapi.json": {
   "get": {
    "operationId": "openapi",
    "summary": "This document",
    "tags": ["server"],
    "responses": {
     "200": {
      "description": "The document",
      "content": {"application/json":{"schema":{"type":"object"}}}},
     "400": {"$ref":"#/components/responses/Error"},
     "401": {"$ref":"#/components/responses/Error"},
     "403": {"$ref":"#/components/responses/Error"},
     "503": {"$ref":"#/components/responses/Error"}}}}},
 "components": {
  "parameters": {
   "model": {"name":"model","in":"path","required":true,"schema":{"type":"string","minLength":1}},
   "version": {"name":"version","in":"path","required":true,"schema":{"type":"string","minLength":1}},
   "region": {"name":"region","in":"path","required":true,"schema":{"type":"string","minLength":1}}},
  "responses": {
   "Error": {
    "description": "What went wrong",
    "content": {"application/json":{"schema":{"$ref":"#/components/schemas/Error"}}}}},
  "schemas": {
   "Error": {"type":"object","properties":{"error":{"type":"string"}},"required":["error"]},
   "DataType": {
    "type": "string",
    "enum": [
     "BOOL",
     "UINT8",
     "UINT16",
     "UINT32",
     "UINT64",
     "INT8",
     "INT16",
     "INT32",
     "INT64",
     "FP16",
     "BF16",
     "FP32",
     "FP64",
     "FP8_E4M3",
     "FP8_E5M2",
     "BYTES"]},
   "Parameters": {
    "type": "object",
    "additionalProperties": {"anyOf":[{"type":"string"},{"type":"number"},{"type":"boolean"}]}},
   "TensorMetadata": {
    "type": "object",
    "properties": {
     "name": {"type":"string"},
     "datatype": {"$ref":"#/components/schemas/DataType"},
     "shape": {"type":"array","items":{"type":"integer","format":"int64"}}},
    "required": ["name","datatype","shape"]},
   "ModelMetadata": {
    "type": "object",
    "properties": {
     "name": {"type":"string"},
     "versions": {"type":"array","items":{"type":"string"}},
     "platform": {"type":"string"},
     "inputs": {"type":"array","items":{"$ref":"#/components/schemas/TensorMetadata"}},
     "outputs": {"type":"array","items":{"$ref":"#/components/schemas/TensorMetadata"}}},
    "required": ["name","platform","inputs","outputs"]},
   "TensorData": {"type":"array","items":{},"description":"Row-major; flat, or nested as the shape says"},
   "InferInput": {
    "type": "object",
    "properties": {
     "name": {"type":"string","minLength":1},
     "datatype": {"$ref":"#/components/schemas/DataType"},
     "shape": {"type":"array","items":{"type":"integer","format":"int64","minimum":0}},
     "parameters": {"$ref":"#/components/schemas/Parameters"},
     "data": {"$ref":"#/components/schemas/TensorData"}},
    "required": ["name","datatype","shape"]},
   "RequestedOutput": {
    "type": "object",
    "properties": {
     "name": {"type":"string","minLength":1},
     "parameters": {"$ref":"#/components/schemas/Parameters"}},
    "required": ["name"]},
   "InferRequest": {
    "type": "object",
    "properties": {
     "id": {"type":"string"},
     "parameters": {"$ref":"#/components/schemas/Parameters"},
     "inputs": {"type":"array","items":{"$ref":"#/components/schemas/InferInput"},"minItems":1},
     "outputs": {"type":"array","items":{"$ref":"#/components/schemas/RequestedOutput"}}},
    "required": ["inputs"]},
   "InferOutput": {
    "type": "object",
    "properties": {
     "name": {"type":"string"},
     "datatype": {"$ref":"#/components/schemas/DataType"},
     "shape": {"type":"array","items":{"type":"integer","format":"int64","minimum":0}},
     "parameters": {"$ref":"#/components/schemas/Parameters"},
     "data": {"$ref":"#/components/schemas/TensorData"}},
    "required": ["name","datatype","shape"]},
   "InferResponse": {
    "type": "object",
    "properties": {
     "model_name": {"type":"string"},
     "model_version": {"type":"string"},
     "id": {"type":"string"},
     "parameters": {"$ref":"#/components/schemas/Parameters"},
     "outputs": {"type":"array","items":{"$ref":"#/components/schemas/InferOutput"}}},
    "required": ["model_name","model_version","outputs"]},
   "Duration": {
    "type": "object",
    "properties": {
     "count": {"type":"integer","format":"int64","minimum":0},
     "ns": {"type":"integer","format":"int64","minimum":0}},
    "required": ["count","ns"]},
   "Statistics": {
    "type": "object",
    "properties": {
     "model_stats": {
      "type": "array",
      "items": {
       "type": "object",
       "properties": {
        "name": {"type":"string"},
        "version": {"type":"string"},
        "last_inference": {"type":"integer","format":"int64","minimum":0},
        "inference_count": {"type":"integer","format":"int64","minimum":0},
        "execution_count": {"type":"integer","format":"int64","minimum":0},
        "inference_stats": {
         "type": "object",
         "properties": {
          "success": {"$ref":"#/components/schemas/Duration"},
          "fail": {"$ref":"#/components/schemas/Duration"},
          "queue": {"$ref":"#/components/schemas/Duration"},
          "compute_input": {"$ref":"#/components/schemas/Duration"},
          "compute_infer": {"$ref":"#/components/schemas/Duration"},
          "compute_output": {"$ref":"#/components/schemas/Duration"},
          "cache_hit": {"$ref":"#/components/schemas/Duration"},
          "cache_miss": {"$ref":"#/components/schemas/Duration"}},
         "required": [
          "success",
          "fail",
          "queue",
          "compute_input",
          "compute_infer",
          "compute_output",
          "cache_hit",
          "cache_miss"]},
        "batch_stats": {
         "type": "array",
         "items": {
          "type": "object",
          "properties": {
           "batch_size": {"type":"integer","format":"int64","minimum":0},
           "compute_input": {"$ref":"#/components/schemas/Duration"},
           "compute_infer": {"$ref":"#/components/schemas/Duration"},
           "compute_output": {"$ref":"#/components/schemas/Duration"}},
          "required": ["batch_size"]}}},
       "required": ["name","version","inference_count","execution_count","inference_stats"]}}},
    "required": ["model_stats"]}},
  "securitySchemes": {"token":{"type":"http","scheme":"bearer"}}},
 "security": [{},{"token":[]}]})json";

}  // namespace

std::string_view openapi_document() noexcept { return kDocument; }

}  // namespace millrace::server
