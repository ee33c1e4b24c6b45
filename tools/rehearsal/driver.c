// A stand-in for libcuda.so.1, which torch opens by name: it answers the few questions that are asked
// without a kernel and refuses the rest. Built and preloaded by build.py and __main__.py.

enum { success = 0, not_supported = 801 };

int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return success;
}
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return success; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return success; }
int cuCtxSetCurrent(void *context) { return success; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return success; }
int cuGetErrorString(int error, const char **text) {
  *text = "no driver: this is a rehearsal";
  return success;
}

#define REFUSED(name) int name(void) { return not_supported; }
REFUSED(cuDeviceGetAttribute)
REFUSED(cuDeviceGetCount)
REFUSED(cuFuncGetAttribute)
REFUSED(cuFuncSetAttribute)
REFUSED(cuFuncSetCacheConfig)
REFUSED(cuGetProcAddress_v2)
REFUSED(cuInit)
REFUSED(cuLaunchCooperativeKernel)
REFUSED(cuLaunchKernel)
REFUSED(cuLinkAddData_v2)
REFUSED(cuLinkComplete)
REFUSED(cuLinkCreate_v2)
REFUSED(cuModuleGetFunction)
REFUSED(cuModuleLoad)
REFUSED(cuModuleLoadData)
REFUSED(cuModuleLoadDataEx)
REFUSED(cuModuleUnload)
REFUSED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
REFUSED(cuPointerGetAttribute)
REFUSED(cuTensorMapEncodeTiled)
