# The CUDA backend: toolkit 13, C++20 device code, static runtime (a machine with a driver and no toolkit runs the program;
# one without a driver runs it on the CPU).
set(FREELUNCH_CUDA_ARCHS "80;86;89;90;120" CACHE STRING
  "Compute capabilities to build device code for; one, e.g. 90, while developing")
set(FREELUNCH_CUDA_ACTING "" CACHE STRING
  "AS:ON, e.g. 89:90: the code of capability AS, assembled for a device of capability ON, which is taken for one of AS. Tests the
  code of a device that is not at hand; not for users")
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(FREELUNCH_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  if(NOT FREELUNCH_NVCC)
    message(FATAL_ERROR "FREELUNCH_CUDA needs nvcc of the CUDA 13 toolkit: not in PATH, not in /usr/local/cuda/bin. "
      "Install the toolkit, set CUDACXX, or configure with FREELUNCH_CUDA=OFF.")
  endif()
  set(CMAKE_CUDA_COMPILER ${FREELUNCH_NVCC})
endif()
# Half of a small kernel file's time is its compilation to PTX, which for 8.0, 8.6 and 8.9 is the same here (nothing asks for
# more than 8.0 below 9.0): these share one pass, and differ in ptxas alone. Only the newest architecture's PTX is kept.
set(FREELUNCH_CUDA_GENCODE "")
if(FREELUNCH_CUDA_ACTING)
  if(NOT FREELUNCH_CUDA_ACTING MATCHES "^(80|86|87|89):([0-9]+)$")
    message(FATAL_ERROR "FREELUNCH_CUDA_ACTING is '${FREELUNCH_CUDA_ACTING}': expected AS:ON with AS 80, 86, 87 or 89.")
  endif()
  set(FREELUNCH_CUDA_ARCHS ${CMAKE_MATCH_1})
  set(FREELUNCH_CUDA_GENCODE "--generate-code=arch=compute_80,code=[sm_${CMAKE_MATCH_2}]")
  set(CMAKE_CUDA_ARCHITECTURES OFF)
elseif("80" IN_LIST FREELUNCH_CUDA_ARCHS AND NOT FREELUNCH_CUDA_ARCHS MATCHES "[a-z]")
  set(fl_targets ${FREELUNCH_CUDA_ARCHS})
  list(SORT fl_targets COMPARE NATURAL)
  list(GET fl_targets -1 fl_newest)
  set(fl_ampere "")
  foreach(arch IN LISTS fl_targets)
    if(arch LESS 90)
      list(APPEND fl_ampere sm_${arch})
    else()
      list(APPEND FREELUNCH_CUDA_GENCODE "--generate-code=arch=compute_${arch},code=[sm_${arch}]")
    endif()
  endforeach()
  list(JOIN fl_ampere "," fl_ampere)
  list(PREPEND FREELUNCH_CUDA_GENCODE "--generate-code=arch=compute_80,code=[${fl_ampere}]")
  string(REPLACE "code=[sm_${fl_newest}]" "code=[compute_${fl_newest},sm_${fl_newest}]" FREELUNCH_CUDA_GENCODE
    "${FREELUNCH_CUDA_GENCODE}")
  set(CMAKE_CUDA_ARCHITECTURES OFF)
else()
  set(CMAKE_CUDA_ARCHITECTURES ${FREELUNCH_CUDA_ARCHS})
endif()
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
# Of a room's device code, not of targets with an architecture of their own.
add_library(fl_cuda_archs INTERFACE)
target_compile_options(fl_cuda_archs INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:${FREELUNCH_CUDA_GENCODE}>")
