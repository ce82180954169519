/* The CUDA backend, compiled for the emulated device. */
#include "emulate.h"

#include "compute/cuda/device.cu"
