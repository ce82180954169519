/* api/devices.h - what is known of the GPUs: asked at the server's start, and again when somebody looks at an old
 * answer. */
#pragma once

#include "api/api.h"

struct device_watch;

struct device_watch *device_watch_new(const struct api_config *config);
void device_watch_free(struct device_watch *watch); /* after background_finish; NULL is fine */
