// `file-digest`: refuses a file of the project that is not the one it should be.
//
// `build.sh` generates `plugin.h` from the interface. The host hashes the file;
// nothing of it is copied into the plugin.

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "plugin.h"

#define NAME "file-digest"

// What a string of the configuration may have; a path or a digest is shorter.
#define MAX_TEXT 1024

static const char CONFIG[] =
    "{\"type\": \"object\", \"additionalProperties\": false, \"required\": [\"file\"],"
    " \"properties\": {"
    "\"file\": {\"type\": \"string\", \"maxLength\": 1000,"
    " \"description\": \"The file, relative to the project's root.\"},"
    "\"sha256\": {\"type\": \"string\", \"pattern\": \"^[0-9a-f]{64}$\","
    " \"description\": \"The digest that it must have.\"}}}";

// A string that the host gets: it frees what it gets, so it gets a copy.
static plugin_string_t copy(const char *text) {
  plugin_string_t string;
  plugin_string_dup(&string, text);
  return string;
}

// The string at `key` of a flat JSON object; false when there is none, or when it
// is longer than `out`. The host has checked the object against CONFIG.
static bool config_text(const plugin_string_t *json, const char *key, char out[MAX_TEXT]) {
  const char *at = (const char *)json->ptr;
  const char *end = at + json->len;
  bool is_key = true, wanted = false;
  while (at < end) {
    if (*at == ':') is_key = false;
    if (*at == ',') is_key = true;
    if (*at++ != '"') continue;
    size_t len = 0;
    for (; at < end && *at != '"'; at++) {
      if (*at == '\\' && ++at == end) return false;
      if (len + 1 < MAX_TEXT) out[len] = *at;
      len++;
    }
    if (at++ >= end || len >= MAX_TEXT) return false;
    out[len] = 0;
    if (is_key) {
      wanted = strcmp(out, key) == 0;
    } else if (wanted) {
      return true;
    }
  }
  return false;
}

static bool fail(windlass_plugin_types_error_t *error, const char *code, const char *what,
                 const char *which, const char *hint) {
  char message[2 * MAX_TEXT];
  strncpy(message, which, MAX_TEXT);
  message[MAX_TEXT - 1] = 0;
  strncat(message, what, MAX_TEXT - 1);
  *error = (windlass_plugin_types_error_t){
      .kind = WINDLASS_PLUGIN_TYPES_ERROR_KIND_INVALID,
      .code = copy(code),
      .message = copy(message),
      .hint = {.is_some = true, .val = copy(hint)},
      .retryable = false,
  };
  return false;
}

static void info(const char *text) {
  plugin_string_t message;
  plugin_string_set(&message, text);
  windlass_plugin_log_write(WINDLASS_PLUGIN_LOG_LEVEL_INFO, &message);
}

static bool output(const char *name, const char *text, windlass_plugin_types_error_t *error) {
  windlass_plugin_values_part_t part = {.tag = WINDLASS_PLUGIN_VALUES_PART_TEXT};
  plugin_string_set(&part.val.text, text);
  windlass_plugin_context_text_t parts = {.ptr = &part, .len = 1};
  plugin_string_t output_name;
  plugin_string_set(&output_name, name);
  return windlass_plugin_context_output(&output_name, &parts, error);
}

void exports_windlass_plugin_step_describe(exports_windlass_plugin_step_description_t *said) {
  exports_windlass_plugin_step_output_spec_t *outputs = calloc(1, sizeof *outputs);
  outputs[0].name = copy("sha256");
  outputs[0].kind = EXPORTS_WINDLASS_PLUGIN_STEP_OUTPUT_TYPE_TEXT;
  outputs[0].summary = copy("The digest that the file has");
  plugin_string_t *requests = calloc(1, sizeof *requests);
  requests[0] = copy("file.read {{ file }}");

  said->name = copy(NAME);
  said->version = copy("0.1.0");
  said->summary = copy("Refuse a file that is not the one it should be");
  said->config_schema = copy(CONFIG);
  said->outputs.ptr = outputs;
  said->outputs.len = 1;
  said->requests.ptr = requests;
  said->requests.len = 1;
  said->has_preflight = false;
  said->has_rollback = false;
}

// False is failure, as everywhere in these bindings.
bool exports_windlass_plugin_step_run(exports_windlass_plugin_step_error_t *error) {
  char file[MAX_TEXT], wanted[MAX_TEXT];
  plugin_string_t config;
  windlass_plugin_context_config(&config);
  bool named = config_text(&config, "file", file);
  bool checked = config_text(&config, "sha256", wanted);
  plugin_string_free(&config);
  if (!named) {
    return fail(error, NAME ".no-file", "no file is named", "", "say `file` in `with`");
  }

  plugin_string_t path, digest;
  plugin_string_set(&path, file);
  windlass_plugin_blobs_own_blob_t blob;
  if (!windlass_plugin_blobs_open(&path, &blob, error)) return false;
  windlass_plugin_blobs_method_blob_sha256(windlass_plugin_blobs_borrow_blob(blob), &digest);
  windlass_plugin_blobs_blob_drop_own(blob);

  char found[65] = {0};
  memcpy(found, digest.ptr, digest.len < 64 ? digest.len : 64);
  plugin_string_free(&digest);
  if (checked && strcmp(found, wanted) != 0) {
    return fail(error, NAME ".other-file", " has another digest than `sha256` says", file,
                "look at what changed in it, then mend `sha256`");
  }
  info(found);
  return output("sha256", found, error);
}
