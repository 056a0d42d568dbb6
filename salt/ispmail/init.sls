# Postfix answers from SQL maps: the main job, `salt '*' state.apply ispmail`.
include:
  - ispmail.modules
  - ispmail.packages
  - ispmail.maps
  - ispmail.answers
