# The CUDA backend: toolkit 13, C++20 device code, static runtime (a machine with a driver and no toolkit runs the program;
# one without a driver runs it on the CPU).
set(FREELUNCH_CUDA_ARCHS "80;86;89;90;120" CACHE STRING
  "Compute capabilities to build device code for; one, e.g. 90, while developing")
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(FREELUNCH_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  if(NOT FREELUNCH_NVCC)
    message(FATAL_ERROR "FREELUNCH_CUDA needs nvcc of the CUDA 13 toolkit: not in PATH, not in /usr/local/cuda/bin. "
      "Install the toolkit, set CUDACXX, or configure with FREELUNCH_CUDA=OFF.")
  endif()
  set(CMAKE_CUDA_COMPILER ${FREELUNCH_NVCC})
endif()
set(CMAKE_CUDA_ARCHITECTURES ${FREELUNCH_CUDA_ARCHS})
if(NOT CMAKE_CUDA_COMPILER_LAUNCHER AND CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
enable_language(CUDA)
find_package(CUDAToolkit 13 REQUIRED)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 stops at 17 for nvcc
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)

add_library(fl_cuda INTERFACE)
target_link_libraries(fl_cuda INTERFACE CUDA::cudart_static ${CMAKE_DL_LIBS})
target_include_directories(fl_cuda SYSTEM INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
target_compile_definitions(fl_cuda INTERFACE FREELUNCH_CUDA=1)
# --threads 2: architectures of one file compile side by side; ptxas dominates.
target_compile_options(fl_cuda INTERFACE
  $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -lineinfo --threads=2 -Xcompiler=-Wall>)
