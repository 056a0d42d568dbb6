# The live maps give the answers that pillar expects: asked on every apply, also when
# nothing changed, because a database changes by itself.
include:
  - ispmail.maps
{%- for key in ['ispmail'] + (salt['pillar.get']('ispmail:instances') or []) %}
{%- if salt['pillar.get'](key ~ ':answers') %}
{%- set instance = '' if key == 'ispmail' else ' in ' ~ key %}

The maps answer as pillar expects{{ instance }}:
  postfix_map.answers:
    - pillar: {{ key | json }}
    - require:
      - postfix_map: Postfix asks the maps that pillar names{{ instance }}
{%- endif %}
{%- endfor %}
