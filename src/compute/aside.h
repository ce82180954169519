/* compute/aside.h - copies to the host beside what a device does.
 *
 * A device that has them copies on a stream of its own: of what is there when all that is queued now is done,
 * while what is queued next goes on. What changes the source is queued behind `hold`, before which those
 * copies are over on the device. */
#pragma once

#include "compute/backend.h"

struct aside {
    void (*get)(struct queue *queue, void *to, const void *from, size_t bytes); /* to memory of take_host */
    void (*hold)(struct queue *queue);
    void (*wait)(struct queue *queue); /* until they are over, and for nothing else */
    bool (*is_idle)(struct queue *queue); /* whether all that was queued is done */
};

/* Of a device's backend; NULL: it has none, as the processor's. */
const struct aside *device_aside(const struct backend *backend);
