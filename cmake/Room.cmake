# A room is one static library, `fl_<room>`, made of every .cpp under src/<room>. Sources are globbed (re-checked at each
# build) so that adding a file is one act; the *arrows* between rooms are explicit: DEPS names the rooms that may be
# included, LIBS the packages; a LIGHT room has no loops over numbers or tokens, and -O3 would only lengthen the compilation
# of its templates. tools/lint/arrows.py holds the same arrows against the #include lines.

add_library(fl_options INTERFACE)
target_include_directories(fl_options INTERFACE ${PROJECT_SOURCE_DIR}/src)
target_compile_options(fl_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Wno-missing-field-initializers>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Dev>>:-Werror>)
# GCC 12 sees overlapping copies inside std::string where there are none ("x" + text at -O2 and above; GCC bug 105329).
# Only there is the warning off.
target_compile_options(fl_options INTERFACE
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>)
# Bounds checks of the standard library stay on in every build: they cost little beside the kernels and turn a
# memory error reachable from a request into a clean stop.
target_compile_definitions(fl_options INTERFACE _GLIBCXX_ASSERTIONS)
if(FREELUNCH_SANITIZE)
  target_compile_options(fl_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${FREELUNCH_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(fl_options INTERFACE -fsanitize=${FREELUNCH_SANITIZE})
endif()

if(FREELUNCH_FUZZ)
  set(fuzz_flags -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(fl_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${fuzz_flags}>)
  target_link_options(fl_options INTERFACE -fsanitize=address,undefined)
endif()

function(fl_room room)
  cmake_parse_arguments(ARG "LIGHT" "" "DEPS;LIBS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  # Device code is built with the CUDA preset only: .cu files, everything in a folder `cuda`, and `cuda_*` except stubs.
  if(FREELUNCH_CUDA)
    file(GLOB_RECURSE device CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cu)
    list(APPEND sources ${device})
  else()
    list(FILTER sources EXCLUDE REGEX "/cuda/")
    list(FILTER sources EXCLUDE REGEX "/cuda_[a-z0-9_]*\\.cpp$")
    file(GLOB stubs CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda_stub.cpp)
    list(APPEND sources ${stubs})
  endif()
  foreach(pattern IN LISTS ARG_EXCLUDE)
    list(FILTER sources EXCLUDE REGEX "${pattern}")
  endforeach()
  if(sources)
    add_library(fl_${room} STATIC ${sources})
    set(scope PUBLIC)
  else()
    add_library(fl_${room} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_link_libraries(fl_${room} ${scope} fl_options)
  if(ARG_LIGHT)
    target_compile_options(fl_${room} PRIVATE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O2>)
  endif()
  if(FREELUNCH_CUDA)
    target_link_libraries(fl_${room} ${scope} fl_cuda)
    if(device)
      target_link_libraries(fl_${room} PRIVATE fl_cuda_archs)
    endif()
  endif()
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(fl_${room} ${scope} fl_${dep})
  endforeach()
  target_link_libraries(fl_${room} ${scope} ${ARG_LIBS})
endfunction()

# Tests of a room: every *_test.cpp under tests/<room> in one GoogleTest program `test_<room>`.
function(fl_room_tests room)
  cmake_parse_arguments(ARG "" "TIMEOUT" "DEPS;LIBS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${room}/*.cpp)
  set(device ${sources})
  list(FILTER device INCLUDE REGEX "/cuda_[a-z0-9_]*\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "/cuda_[a-z0-9_]*\\.cpp$")
  if(NOT sources)
    return()
  endif()
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(test_${room} ${sources})
  target_link_libraries(test_${room} PRIVATE fl_${room} GTest::gmock GTest::gtest_main ${ARG_LIBS})
  foreach(dep IN LISTS ARG_DEPS)
    target_link_libraries(test_${room} PRIVATE fl_${dep})
  endforeach()
  target_include_directories(test_${room} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_definitions(test_${room} PRIVATE
    FL_SOURCE_DIR="${PROJECT_SOURCE_DIR}" FL_BINARY_DIR="${PROJECT_BINARY_DIR}")
  gtest_discover_tests(test_${room} NO_PRETTY_VALUES TEST_PREFIX "${room}." DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT})
  # cuda_*_test.cpp need a device: a program of their own, label `gpu` (./dev test --gpu).
  if(FREELUNCH_CUDA AND device)
    add_executable(test_${room}_cuda ${device})
    if(NOT TARGET device_tests)
      add_custom_target(device_tests)
    endif()
    add_dependencies(device_tests test_${room}_cuda)
    target_link_libraries(test_${room}_cuda PRIVATE fl_${room} GTest::gmock GTest::gtest_main ${ARG_LIBS})
    foreach(dep IN LISTS ARG_DEPS)
      target_link_libraries(test_${room}_cuda PRIVATE fl_${dep})
    endforeach()
    target_include_directories(test_${room}_cuda PRIVATE ${PROJECT_SOURCE_DIR})
    target_compile_definitions(test_${room}_cuda PRIVATE
      FL_SOURCE_DIR="${PROJECT_SOURCE_DIR}" FL_BINARY_DIR="${PROJECT_BINARY_DIR}")
    gtest_discover_tests(test_${room}_cuda NO_PRETTY_VALUES TEST_PREFIX "${room}.cuda." DISCOVERY_TIMEOUT 60
      PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS gpu)
  endif()
endfunction()
