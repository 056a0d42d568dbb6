# The main job, `salt '*' state.apply ispmail`: Postfix asks SQL maps, and they answer as pillar expects.
include:
  - ispmail.modules
  - ispmail.packages
  - ispmail.maps
  - ispmail.answers
