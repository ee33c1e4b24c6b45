// A stand-in for libcudart, to be preloaded: device memory is host memory, streams and events do
// nothing, there is one device of compute capability 9.0, and launching a kernel is an error, so that
// nothing is computed by accident. REHEARSAL_TRACE=1 shows what was refused, with the C++ stack.
#include <cuda_runtime_api.h>
#include <execinfo.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#define API extern "C" __attribute__((visibility("default")))

static std::atomic<long long> g_synchronised{0};
static thread_local int g_device = 0;
static const size_t kMemory = 139ull << 30;

API long long rehearsal_synchronised() { return g_synchronised; }

static cudaError_t refused(const char* what) {
  if (getenv("REHEARSAL_TRACE")) {
    fprintf(stderr, "[rehearsal] %s\n", what);
    void* frames[60];
    backtrace_symbols_fd(frames, backtrace(frames, 60), 2);
  }
  return cudaErrorNotSupported;
}
static cudaError_t synchronised() {
  ++g_synchronised;
  return cudaSuccess;
}

// The device ------------------------------------------------------------------------------------

API cudaError_t cudaGetDeviceCount(int* n) { *n = 1; return cudaSuccess; }
API cudaError_t cudaGetDevice(int* d) { *d = g_device; return cudaSuccess; }
API cudaError_t cudaSetDevice(int d) { g_device = d; return cudaSuccess; }
API cudaError_t cudaDriverGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaRuntimeGetVersion(int* v) { *v = 13000; return cudaSuccess; }
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Rehearsal (no GPU, host memory)");
  p->totalGlobalMem = kMemory; p->sharedMemPerBlock = 49152; p->regsPerBlock = 65536;
  p->warpSize = 32; p->maxThreadsPerBlock = 1024;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->totalConstMem = 65536; p->major = 9; p->minor = 0; p->multiProcessorCount = 132;
  p->textureAlignment = 512; p->maxThreadsPerMultiProcessor = 2048; p->l2CacheSize = 50 << 20;
  p->sharedMemPerMultiprocessor = 233472; p->sharedMemPerBlockOptin = 232448; p->regsPerMultiprocessor = 65536;
  p->maxBlocksPerMultiProcessor = 32; p->unifiedAddressing = 1; p->memoryBusWidth = 6144;
  p->concurrentKernels = 1; p->asyncEngineCount = 3; p->reservedSharedMemPerBlock = 1024;
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
    case cudaDevAttrMultiProcessorCount: *v = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *v = 1024; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    default: *v = 0;
  }
  return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int) { snprintf(s, n, "0000:00:00.0"); return cudaSuccess; }
API cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int* v, int, int) { *v = 0; return cudaSuccess; }
API cudaError_t cudaDeviceSynchronize() { return synchronised(); }
API cudaError_t cudaGetLastError() { return cudaSuccess; }
API cudaError_t cudaPeekAtLastError() { return cudaSuccess; }

// Memory ----------------------------------------------------------------------------------------
// Large blocks are fresh pages, which cost nothing until they are written; a page before them keeps
// their size and a mark by which cudaFree knows them.

static const size_t kPage = 4096, kLarge = 1u << 20, kMark = 0x5eed5eed;

API cudaError_t cudaMalloc(void** p, size_t n) {
  if (n < kLarge)
    return posix_memalign(p, 512, n ? n : 1) ? cudaErrorMemoryAllocation : cudaSuccess;
  char* start = (char*)mmap(nullptr, n + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return cudaErrorMemoryAllocation;
  *(size_t*)start = n + kPage;
  *(size_t*)(start + kPage - sizeof(size_t)) = kMark;
  *p = start + kPage;
  return cudaSuccess;
}
API cudaError_t cudaFree(void* p) {
  bool paged = p && ((size_t)p & (kPage - 1)) == 0 && *(size_t*)((char*)p - sizeof(size_t)) == kMark;
  if (paged) munmap((char*)p - kPage, *(size_t*)((char*)p - kPage));
  else free(p);
  return cudaSuccess;
}
API cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return cudaFree(p); }
API cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) { return cudaMalloc(p, n); }
API cudaError_t cudaFreeHost(void* p) { return cudaFree(p); }
API cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
API cudaError_t cudaMemGetInfo(size_t* left, size_t* total) { *total = *left = kMemory; return cudaSuccess; }
API cudaError_t cudaMemcpy(void* to, const void* from, size_t n, cudaMemcpyKind) { memmove(to, from, n); return synchronised(); }
API cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t n, cudaMemcpyKind, cudaStream_t) {
  memmove(to, from, n);
  return cudaSuccess;
}
API cudaError_t cudaMemset(void* d, int v, size_t n) { memset(d, v, n); return cudaSuccess; }
API cudaError_t cudaMemsetAsync(void* d, int v, size_t n, cudaStream_t) { memset(d, v, n); return cudaSuccess; }
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeUnregistered;
  a->hostPointer = (void*)p;
  return cudaSuccess;
}

// Streams and events ----------------------------------------------------------------------------

API cudaError_t cudaStreamCreate(cudaStream_t* s) { *s = (cudaStream_t)malloc(1); return cudaSuccess; }
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return cudaStreamCreate(s); }
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) { return cudaStreamCreate(s); }
API cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return synchronised(); }
API cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) { *p = 0; return cudaSuccess; }
API cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* s) {
  *s = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
#undef cudaStreamGetCaptureInfo
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* s, unsigned long long* id, cudaGraph_t*,
                                         const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  *s = cudaStreamCaptureStatusNone;
  if (id) *id = 0;
  return cudaSuccess;
}
API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

struct Event { double ms; };
static double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec * 1e-6;
}
API cudaError_t cudaEventCreate(cudaEvent_t* e) { *e = (cudaEvent_t) new Event{0}; return cudaSuccess; }
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) { return cudaEventCreate(e); }
API cudaError_t cudaEventDestroy(cudaEvent_t e) { delete (Event*)e; return cudaSuccess; }
API cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) { ((Event*)e)->ms = now(); return cudaSuccess; }
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) { return cudaEventRecord(e, s); }
API cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
API cudaError_t cudaEventSynchronize(cudaEvent_t) { return synchronised(); }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  *ms = float(((Event*)b)->ms - ((Event*)a)->ms);
  return cudaSuccess;
}

// Kernels: none ---------------------------------------------------------------------------------

API cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t) { return refused("cudaLaunchKernel"); }
API cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3, dim3, void**, size_t, cudaStream_t) { return refused("__cudaLaunchKernel"); }
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) { return refused("cudaLaunchKernelExC"); }
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return refused("cudaFuncGetAttributes"); }
API cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return refused("cudaFuncSetAttribute"); }
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) {
  *n = 1;
  return cudaSuccess;
}
API cudaError_t __cudaGetKernel(cudaKernel_t* k, const void*) { *k = (cudaKernel_t)1; return cudaSuccess; }
API cudaError_t cudaGetSymbolAddress(void**, const void*) { return refused("cudaGetSymbolAddress"); }
API cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return refused("cudaMemcpyToSymbol"); }
API cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** f, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* r) {
  *f = nullptr;
  if (r) *r = cudaDriverEntryPointSymbolNotFound;
  return cudaErrorNotSupported;
}
