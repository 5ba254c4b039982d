"""What Postgres' catalog says of types, casts, operators and functions, as far as resolving a name needs it.

Whether `a + '1'` means numbers or dates follows from all operators of that name, not only from those that are
supported here: so all of them are listed, and the ones without a kernel are refused after they are resolved.
The facts are those of PostgreSQL 18; `test_the_catalog_is_what_postgres_says` holds them against a server.

* `TYPES`: OID, typname, OID of the array, category, `*` where preferred (pg_type).
* `CASTS`: source, targets with their context: `i`mplicit, `a`ssignment, `e`xplicit (pg_cast).
* `OPERATORS`, `FUNCTIONS`: argument types and result of each. `~` ends the arguments of a variadic one, `=`
  stands for an argument with a default, `@` for an aggregate or a function that returns a set.
"""

from dataclasses import dataclass

TYPES = """
16 bool 1000 B *
17 bytea 1001 U
18 char 1002 Z
19 name 1003 S
20 int8 1016 N
21 int2 1005 N
22 int2vector 1006 A
23 int4 1007 N
25 text 1009 S *
26 oid 1028 N *
30 oidvector 1013 A
114 json 199 U
142 xml 143 U
600 point 1017 G
601 lseg 1018 G
602 path 1019 G
603 box 1020 G
604 polygon 1027 G
628 line 629 G
650 cidr 651 I
700 float4 1021 N
701 float8 1022 N *
705 unknown 0 X
718 circle 719 G
774 macaddr8 775 U
790 money 791 N
829 macaddr 1040 U
869 inet 1041 I *
1042 bpchar 1014 S
1043 varchar 1015 S
1082 date 1182 D
1083 time 1183 D
1114 timestamp 1115 D
1184 timestamptz 1185 D *
1186 interval 1187 T *
1266 timetz 1270 D
1560 bit 1561 V
1562 varbit 1563 V *
1700 numeric 1231 N
1790 refcursor 2201 U
2276 any 0 P
2277 anyarray 0 P
2283 anyelement 0 P
2776 anynonarray 0 P
2950 uuid 2951 U
3500 anyenum 0 P
3614 tsvector 3643 U
3615 tsquery 3645 U
3802 jsonb 3807 U
3831 anyrange 0 P
3904 int4range 3905 R
3906 numrange 3907 R
3908 tsrange 3909 R
3910 tstzrange 3911 R
3912 daterange 3913 R
3926 int8range 3927 R
4072 jsonpath 4073 U
4451 int4multirange 6150 R
4532 nummultirange 6151 R
4533 tsmultirange 6152 R
4534 tstzmultirange 6153 R
4535 datemultirange 6155 R
4536 int8multirange 6157 R
4537 anymultirange 0 P
4538 anycompatiblemultirange 0 P
5069 xid8 271 U
5077 anycompatible 0 P
5078 anycompatiblearray 0 P
5079 anycompatiblenonarray 0 P
5080 anycompatiblerange 0 P
"""

CASTS = """
bit  varbit:i int8:e int4:e
bool  text:a int4:e bpchar:a varchar:a
box  circle:e lseg:e polygon:a point:e
bpchar  xml:e text:i varchar:i char:a name:i
bytea  int8:e int4:e int2:e
char  bpchar:a text:i int4:e varchar:a
cidr  bpchar:a inet:i text:a varchar:a
circle  point:e polygon:e box:e
date  timestamptz:i timestamp:i
daterange  datemultirange:e
float4  float8:i int8:a numeric:a int2:a int4:a
float8  numeric:a int8:a int4:a float4:a int2:a
inet  cidr:a text:a varchar:a bpchar:a
int2  oid:i bytea:e float8:i int4:i numeric:i float4:i int8:i
int4  bool:e bytea:e char:e int8:i int2:a oid:i float4:i float8:i money:a bit:e numeric:i
int4range  int4multirange:e
int8  int4:a bytea:e numeric:i bit:e int2:a money:a float8:i float4:i oid:i
int8range  int8multirange:e
interval  time:a
json  jsonb:a
jsonb  json:a int8:e float8:e int4:e bool:e float4:e numeric:e int2:e
lseg  point:e
macaddr  macaddr8:i
macaddr8  macaddr:i
money  numeric:a
name  text:i bpchar:a varchar:a
numeric  float4:i int4:a int2:a money:a int8:a float8:i
numrange  nummultirange:e
oid  int8:a int4:a
path  polygon:a
point  box:a
polygon  box:e point:e path:a circle:e
text  char:a xml:e bpchar:i varchar:i name:i
time  timetz:i interval:i
timestamp  date:a time:a timestamptz:i
timestamptz  timestamp:a time:a date:a timetz:a
timetz  time:a
tsrange  tsmultirange:e
tstzrange  tstzmultirange:e
varbit  bit:i
varchar  name:i char:a xml:e bpchar:i text:i
xml  varchar:a bpchar:a text:a
"""
OPERATORS = """
!~  name,text:bool text,text:bool bpchar,text:bool
!~*  name,text:bool text,text:bool bpchar,text:bool
!~~  bytea,bytea:bool name,text:bool text,text:bool bpchar,text:bool
!~~*  name,text:bool text,text:bool bpchar,text:bool
#  int8,int8:int8 int2,int2:int2 int4,int4:int4 lseg,lseg:point box,box:box line,line:point bit,bit:bit
    path:int4 polygon:int4
#-  jsonb,_text:jsonb
#>  json,_text:json jsonb,_text:jsonb
#>>  json,_text:text jsonb,_text:text
%  int8,int8:int8 int2,int2:int2 int4,int4:int4 numeric,numeric:numeric
&  int8,int8:int8 int2,int2:int2 int4,int4:int4 macaddr8,macaddr8:macaddr8 macaddr,macaddr:macaddr
    inet,inet:inet bit,bit:bit
&&  box,box:bool polygon,polygon:bool circle,circle:bool inet,inet:bool anyarray,anyarray:bool
    tsquery,tsquery:tsquery anyrange,anyrange:bool anyrange,anymultirange:bool anymultirange,anyrange:bool
    anymultirange,anymultirange:bool
*  int8,int8:int8 int8,int2:int8 int8,int4:int8 int8,money:money int2,int8:int8 int2,int2:int2
    int2,int4:int4 int2,money:money int4,int8:int8 int4,int2:int4 int4,int4:int4 int4,money:money
    point,point:point path,point:path box,point:box float4,float4:float4 float4,float8:float8
    float4,money:money float8,float4:float8 float8,float8:float8 float8,money:money float8,interval:interval
    circle,point:circle money,int8:money money,int2:money money,int4:money money,float4:money
    money,float8:money interval,float8:interval numeric,numeric:numeric anyrange,anyrange:anyrange
    anymultirange,anymultirange:anymultirange
+  int8,int8:int8 int8,int2:int8 int8,int4:int8 int8,inet:inet int2,int8:int8 int2,int2:int2 int2,int4:int4
    int4,int8:int8 int4,int2:int4 int4,int4:int4 int4,date:date point,point:point path,point:path
    path,path:path box,point:box float4,float4:float4 float4,float8:float8 float8,float4:float8
    float8,float8:float8 circle,point:circle money,money:money inet,int8:inet date,int4:date
    date,time:timestamp date,interval:timestamp date,timetz:timestamptz time,date:timestamp
    time,interval:time timestamp,interval:timestamp timestamptz,interval:timestamptz interval,date:timestamp
    interval,time:time interval,timestamp:timestamp interval,timestamptz:timestamptz
    interval,interval:interval interval,timetz:timetz timetz,date:timestamptz timetz,interval:timetz
    numeric,numeric:numeric anyrange,anyrange:anyrange anymultirange,anymultirange:anymultirange int8:int8
    int2:int2 int4:int4 float4:float4 float8:float8 numeric:numeric
-  int8,int8:int8 int8,int2:int8 int8,int4:int8 int2,int8:int8 int2,int2:int2 int2,int4:int4 int4,int8:int8
    int4,int2:int4 int4,int4:int4 point,point:point path,point:path box,point:box float4,float4:float4
    float4,float8:float8 float8,float4:float8 float8,float8:float8 circle,point:circle money,money:money
    inet,int8:inet inet,inet:int8 date,int4:date date,date:int4 date,interval:timestamp time,time:interval
    time,interval:time timestamp,timestamp:interval timestamp,interval:timestamp
    timestamptz,timestamptz:interval timestamptz,interval:timestamptz interval,interval:interval
    timetz,interval:timetz numeric,numeric:numeric jsonb,int4:jsonb jsonb,text:jsonb jsonb,_text:jsonb
    anyrange,anyrange:anyrange anymultirange,anymultirange:anymultirange int8:int8 int2:int2 int4:int4
    float4:float4 float8:float8 interval:interval numeric:numeric
->  json,int4:json json,text:json jsonb,int4:jsonb jsonb,text:jsonb
->>  json,int4:text json,text:text jsonb,int4:text jsonb,text:text
/  int8,int8:int8 int8,int2:int8 int8,int4:int8 int2,int8:int8 int2,int2:int2 int2,int4:int4 int4,int8:int8
    int4,int2:int4 int4,int4:int4 point,point:point path,point:path box,point:box float4,float4:float4
    float4,float8:float8 float8,float4:float8 float8,float8:float8 circle,point:circle money,int8:money
    money,int2:money money,int4:money money,float4:money money,float8:money money,money:float8
    interval,float8:interval numeric,numeric:numeric
<  bool,bool:bool bytea,bytea:bool char,char:bool name,name:bool name,text:bool int8,int8:bool
    int8,int2:bool int8,int4:bool int2,int8:bool int2,int2:bool int2,int4:bool int4,int8:bool int4,int2:bool
    int4,int4:bool text,name:bool text,text:bool oid,oid:bool oidvector,oidvector:bool lseg,lseg:bool
    path,path:bool box,box:bool float4,float4:bool float4,float8:bool float8,float4:bool float8,float8:bool
    circle,circle:bool macaddr8,macaddr8:bool money,money:bool macaddr,macaddr:bool inet,inet:bool
    bpchar,bpchar:bool date,date:bool date,timestamp:bool date,timestamptz:bool time,time:bool
    timestamp,date:bool timestamp,timestamp:bool timestamp,timestamptz:bool timestamptz,date:bool
    timestamptz,timestamp:bool timestamptz,timestamptz:bool interval,interval:bool timetz,timetz:bool
    bit,bit:bool varbit,varbit:bool numeric,numeric:bool anyarray,anyarray:bool uuid,uuid:bool
    anyenum,anyenum:bool tsvector,tsvector:bool tsquery,tsquery:bool jsonb,jsonb:bool anyrange,anyrange:bool
    anymultirange,anymultirange:bool xid8,xid8:bool
<<  int8,int4:int8 int2,int4:int2 int4,int4:int4 point,point:bool box,box:bool polygon,polygon:bool
    circle,circle:bool inet,inet:bool bit,int4:bit anyrange,anyrange:bool anyrange,anymultirange:bool
    anymultirange,anyrange:bool anymultirange,anymultirange:bool
<=  bool,bool:bool bytea,bytea:bool char,char:bool name,name:bool name,text:bool int8,int8:bool
    int8,int2:bool int8,int4:bool int2,int8:bool int2,int2:bool int2,int4:bool int4,int8:bool int4,int2:bool
    int4,int4:bool text,name:bool text,text:bool oid,oid:bool oidvector,oidvector:bool lseg,lseg:bool
    path,path:bool box,box:bool float4,float4:bool float4,float8:bool float8,float4:bool float8,float8:bool
    circle,circle:bool macaddr8,macaddr8:bool money,money:bool macaddr,macaddr:bool inet,inet:bool
    bpchar,bpchar:bool date,date:bool date,timestamp:bool date,timestamptz:bool time,time:bool
    timestamp,date:bool timestamp,timestamp:bool timestamp,timestamptz:bool timestamptz,date:bool
    timestamptz,timestamp:bool timestamptz,timestamptz:bool interval,interval:bool timetz,timetz:bool
    bit,bit:bool varbit,varbit:bool numeric,numeric:bool anyarray,anyarray:bool uuid,uuid:bool
    anyenum,anyenum:bool tsvector,tsvector:bool tsquery,tsquery:bool jsonb,jsonb:bool anyrange,anyrange:bool
    anymultirange,anymultirange:bool xid8,xid8:bool
<>  bool,bool:bool bytea,bytea:bool char,char:bool name,name:bool name,text:bool int8,int8:bool
    int8,int2:bool int8,int4:bool int2,int8:bool int2,int2:bool int2,int4:bool int4,int8:bool int4,int2:bool
    int4,int4:bool text,name:bool text,text:bool oid,oid:bool oidvector,oidvector:bool point,point:bool
    lseg,lseg:bool float4,float4:bool float4,float8:bool float8,float4:bool float8,float8:bool
    circle,circle:bool macaddr8,macaddr8:bool money,money:bool macaddr,macaddr:bool inet,inet:bool
    bpchar,bpchar:bool date,date:bool date,timestamp:bool date,timestamptz:bool time,time:bool
    timestamp,date:bool timestamp,timestamp:bool timestamp,timestamptz:bool timestamptz,date:bool
    timestamptz,timestamp:bool timestamptz,timestamptz:bool interval,interval:bool timetz,timetz:bool
    bit,bit:bool varbit,varbit:bool numeric,numeric:bool anyarray,anyarray:bool uuid,uuid:bool
    anyenum,anyenum:bool tsvector,tsvector:bool tsquery,tsquery:bool jsonb,jsonb:bool anyrange,anyrange:bool
    anymultirange,anymultirange:bool xid8,xid8:bool
<@  point,lseg:bool point,path:bool point,box:bool point,polygon:bool point,line:bool point,circle:bool
    lseg,box:bool lseg,line:bool box,box:bool polygon,polygon:bool circle,circle:bool anyarray,anyarray:bool
    anyelement,anyrange:bool anyelement,anymultirange:bool tsquery,tsquery:bool jsonb,jsonb:bool
    anyrange,anyrange:bool anyrange,anymultirange:bool anymultirange,anyrange:bool
    anymultirange,anymultirange:bool
=  bool,bool:bool bytea,bytea:bool char,char:bool name,name:bool name,text:bool int8,int8:bool
    int8,int2:bool int8,int4:bool int2,int8:bool int2,int2:bool int2,int4:bool int4,int8:bool int4,int2:bool
    int4,int4:bool text,name:bool text,text:bool oid,oid:bool oidvector,oidvector:bool lseg,lseg:bool
    path,path:bool box,box:bool line,line:bool float4,float4:bool float4,float8:bool float8,float4:bool
    float8,float8:bool circle,circle:bool macaddr8,macaddr8:bool money,money:bool macaddr,macaddr:bool
    inet,inet:bool bpchar,bpchar:bool date,date:bool date,timestamp:bool date,timestamptz:bool
    time,time:bool timestamp,date:bool timestamp,timestamp:bool timestamp,timestamptz:bool
    timestamptz,date:bool timestamptz,timestamp:bool timestamptz,timestamptz:bool interval,interval:bool
    timetz,timetz:bool bit,bit:bool varbit,varbit:bool numeric,numeric:bool anyarray,anyarray:bool
    uuid,uuid:bool anyenum,anyenum:bool tsvector,tsvector:bool tsquery,tsquery:bool jsonb,jsonb:bool
    anyrange,anyrange:bool anymultirange,anymultirange:bool xid8,xid8:bool
>  bool,bool:bool bytea,bytea:bool char,char:bool name,name:bool name,text:bool int8,int8:bool
    int8,int2:bool int8,int4:bool int2,int8:bool int2,int2:bool int2,int4:bool int4,int8:bool int4,int2:bool
    int4,int4:bool text,name:bool text,text:bool oid,oid:bool oidvector,oidvector:bool lseg,lseg:bool
    path,path:bool box,box:bool float4,float4:bool float4,float8:bool float8,float4:bool float8,float8:bool
    circle,circle:bool macaddr8,macaddr8:bool money,money:bool macaddr,macaddr:bool inet,inet:bool
    bpchar,bpchar:bool date,date:bool date,timestamp:bool date,timestamptz:bool time,time:bool
    timestamp,date:bool timestamp,timestamp:bool timestamp,timestamptz:bool timestamptz,date:bool
    timestamptz,timestamp:bool timestamptz,timestamptz:bool interval,interval:bool timetz,timetz:bool
    bit,bit:bool varbit,varbit:bool numeric,numeric:bool anyarray,anyarray:bool uuid,uuid:bool
    anyenum,anyenum:bool tsvector,tsvector:bool tsquery,tsquery:bool jsonb,jsonb:bool anyrange,anyrange:bool
    anymultirange,anymultirange:bool xid8,xid8:bool
>=  bool,bool:bool bytea,bytea:bool char,char:bool name,name:bool name,text:bool int8,int8:bool
    int8,int2:bool int8,int4:bool int2,int8:bool int2,int2:bool int2,int4:bool int4,int8:bool int4,int2:bool
    int4,int4:bool text,name:bool text,text:bool oid,oid:bool oidvector,oidvector:bool lseg,lseg:bool
    path,path:bool box,box:bool float4,float4:bool float4,float8:bool float8,float4:bool float8,float8:bool
    circle,circle:bool macaddr8,macaddr8:bool money,money:bool macaddr,macaddr:bool inet,inet:bool
    bpchar,bpchar:bool date,date:bool date,timestamp:bool date,timestamptz:bool time,time:bool
    timestamp,date:bool timestamp,timestamp:bool timestamp,timestamptz:bool timestamptz,date:bool
    timestamptz,timestamp:bool timestamptz,timestamptz:bool interval,interval:bool timetz,timetz:bool
    bit,bit:bool varbit,varbit:bool numeric,numeric:bool anyarray,anyarray:bool uuid,uuid:bool
    anyenum,anyenum:bool tsvector,tsvector:bool tsquery,tsquery:bool jsonb,jsonb:bool anyrange,anyrange:bool
    anymultirange,anymultirange:bool xid8,xid8:bool
>>  int8,int4:int8 int2,int4:int2 int4,int4:int4 point,point:bool box,box:bool polygon,polygon:bool
    circle,circle:bool inet,inet:bool bit,int4:bit anyrange,anyrange:bool anyrange,anymultirange:bool
    anymultirange,anyrange:bool anymultirange,anymultirange:bool
?  jsonb,text:bool
?&  jsonb,_text:bool
?|  point,point:bool jsonb,_text:bool lseg:bool line:bool
@  int8:int8 int2:int2 int4:int4 float4:float4 float8:float8 numeric:numeric
@>  path,point:bool box,point:bool box,box:bool polygon,point:bool polygon,polygon:bool circle,point:bool
    circle,circle:bool anyarray,anyarray:bool tsquery,tsquery:bool jsonb,jsonb:bool anyrange,anyelement:bool
    anyrange,anyrange:bool anyrange,anymultirange:bool anymultirange,anyelement:bool
    anymultirange,anyrange:bool anymultirange,anymultirange:bool
^  float8,float8:float8 numeric,numeric:numeric
^@  text,text:bool
|  int8,int8:int8 int2,int2:int2 int4,int4:int4 macaddr8,macaddr8:macaddr8 macaddr,macaddr:macaddr
    inet,inet:inet bit,bit:bit
|/  float8:float8
||  bytea,bytea:bytea text,text:text text,anynonarray:text varbit,varbit:varbit anynonarray,text:text
    tsvector,tsvector:tsvector tsquery,tsquery:tsquery jsonb,jsonb:jsonb
    anycompatible,anycompatiblearray:anycompatiblearray anycompatiblearray,anycompatible:anycompatiblearray
    anycompatiblearray,anycompatiblearray:anycompatiblearray
~  name,text:bool text,text:bool bpchar,text:bool int8:int8 int2:int2 int4:int4 macaddr8:macaddr8
    macaddr:macaddr inet:inet bit:bit
~*  name,text:bool text,text:bool bpchar,text:bool
~~  bytea,bytea:bool name,text:bool text,text:bool bpchar,text:bool
~~*  name,text:bool text,text:bool bpchar,text:bool
"""
FUNCTIONS = """
abs  numeric:numeric int8:int8 int2:int2 int4:int4 float4:float4 float8:float8
age  timestamp:interval timestamp,timestamp:interval timestamptz:interval timestamptz,timestamptz:interval
array_append  anycompatiblearray,anycompatible:anycompatiblearray
array_cat  anycompatiblearray,anycompatiblearray:anycompatiblearray
array_length  anyarray,int4:int4
array_lower  anyarray,int4:int4
array_ndims  anyarray:int4
array_position  anycompatiblearray,anycompatible:int4 anycompatiblearray,anycompatible,int4:int4
array_prepend  anycompatible,anycompatiblearray:anycompatiblearray
array_remove  anycompatiblearray,anycompatible:anycompatiblearray
array_replace  anycompatiblearray,anycompatible,anycompatible:anycompatiblearray
array_to_string  anyarray,text:text anyarray,text,text:text
array_upper  anyarray,int4:int4
ascii  text:int4
bit_count  bit:int8 bytea:int8
bit_length  bit:int4 bytea:int4 text:int4
broadcast  inet:inet
btrim  bytea,bytea:bytea text:text text,text:text
cardinality  anyarray:int4
casefold  text:text
cbrt  float8:float8
ceil  numeric:numeric float8:float8
ceiling  numeric:numeric float8:float8
char_length  bpchar:int4 text:int4
character_length  bpchar:int4 text:int4
chr  int4:text
clock_timestamp  -:timestamptz
concat  any:text~
concat_ws  text,any:text~
convert_from  bytea,name:text
convert_to  text,name:bytea
crc32  bytea:int8
crc32c  bytea:int8
date_bin  interval,timestamp,timestamp:timestamp interval,timestamptz,timestamptz:timestamptz
date_part  text,date:float8 text,time:float8 text,timestamp:float8 text,timestamptz:float8
    text,interval:float8 text,timetz:float8
date_trunc  text,timestamp:timestamp text,timestamptz:timestamptz text,timestamptz,text:timestamptz
    text,interval:interval
decode  text,text:bytea
degrees  float8:float8
div  numeric,numeric:numeric
encode  bytea,text:text
exp  numeric:numeric float8:float8
extract  text,date:numeric text,time:numeric text,timestamp:numeric text,timestamptz:numeric
    text,interval:numeric text,timetz:numeric
factorial  int8:numeric
family  inet:int4
floor  numeric:numeric float8:float8
format  text:text text,any:text~
gcd  numeric,numeric:numeric int8,int8:int8 int4,int4:int4
get_bit  bit,int4:int4 bytea,int8:int4
get_byte  bytea,int4:int4
host  inet:text
initcap  text:text
isfinite  date:bool timestamp:bool timestamptz:bool interval:bool
json_array_length  json:int4
json_build_array  -:json any:json~
json_build_object  -:json any:json~
json_extract_path  json,_text:json~
json_extract_path_text  json,_text:text~
json_typeof  json:text
jsonb_array_length  jsonb:int4
jsonb_build_array  -:jsonb any:jsonb~
jsonb_build_object  -:jsonb any:jsonb~
jsonb_extract_path  jsonb,_text:jsonb~
jsonb_extract_path_text  jsonb,_text:text~
jsonb_object_keys  jsonb:text@
jsonb_pretty  jsonb:text
jsonb_set  jsonb,_text,jsonb,bool:jsonb=
jsonb_strip_nulls  jsonb,bool:jsonb=
jsonb_typeof  jsonb:text
justify_days  interval:interval
justify_hours  interval:interval
justify_interval  interval:interval
lcm  numeric,numeric:numeric int8,int8:int8 int4,int4:int4
left  text,int4:text
length  bpchar:int4 bit:int4 bytea:int4 bytea,name:int4 text:int4 tsvector:int4 lseg:float8 path:float8
like  bytea,bytea:bool name,text:bool text,text:bool
like_escape  bytea,bytea:bytea text,text:text
ln  numeric:numeric float8:float8
log  numeric:numeric numeric,numeric:numeric float8:float8
log10  numeric:numeric float8:float8
lower  text:text anyrange:anyelement anymultirange:anyelement
lpad  text,int4:text text,int4,text:text
ltrim  bytea,bytea:bytea text:text text,text:text
make_date  int4,int4,int4:date
make_interval  int4,int4,int4,int4,int4,int4,float8:interval=======
make_time  int4,int4,float8:time
make_timestamp  int4,int4,int4,int4,int4,float8:timestamp
make_timestamptz  int4,int4,int4,int4,int4,float8:timestamptz
    int4,int4,int4,int4,int4,float8,text:timestamptz
masklen  inet:int4
md5  bytea:text text:text
min_scale  numeric:int4
mod  numeric,numeric:numeric int8,int8:int8 int2,int2:int2 int4,int4:int4
netmask  inet:inet
network  inet:cidr
normalize  text,text:text=
notlike  bytea,bytea:bool name,text:bool text,text:bool
now  -:timestamptz
num_nonnulls  any:int4~
num_nulls  any:int4~
octet_length  bpchar:int4 bit:int4 bytea:int4 text:int4
overlay  bit,bit,int4:bit bit,bit,int4,int4:bit bytea,bytea,int4:bytea bytea,bytea,int4,int4:bytea
    text,text,int4:text text,text,int4,int4:text
parse_ident  text,bool:_text=
pi  -:float8
position  bit,bit:int4 bytea,bytea:int4 text,text:int4
pow  numeric,numeric:numeric float8,float8:float8
power  numeric,numeric:numeric float8,float8:float8
quote_ident  text:text
quote_literal  anyelement:text text:text
quote_nullable  anyelement:text text:text
radians  float8:float8
random  -:float8 numeric,numeric:numeric int8,int8:int8 int4,int4:int4
regexp_count  text,text:int4 text,text,int4:int4 text,text,int4,text:int4
regexp_instr  text,text:int4 text,text,int4:int4 text,text,int4,int4:int4 text,text,int4,int4,int4:int4
    text,text,int4,int4,int4,text:int4 text,text,int4,int4,int4,text,int4:int4
regexp_like  text,text:bool text,text,text:bool
regexp_match  text,text:_text text,text,text:_text
regexp_replace  text,text,text:text text,text,text,int4:text text,text,text,int4,int4:text
    text,text,text,int4,int4,text:text text,text,text,text:text
regexp_substr  text,text:text text,text,int4:text text,text,int4,int4:text text,text,int4,int4,text:text
    text,text,int4,int4,text,int4:text
repeat  text,int4:text
replace  text,text,text:text
reverse  bytea:bytea text:text
right  text,int4:text
round  numeric:numeric numeric,int4:numeric float8:float8
rpad  text,int4:text text,int4,text:text
rtrim  bytea,bytea:bytea text:text text,text:text
scale  numeric:int4
set_byte  bytea,int4,int4:bytea
set_masklen  cidr,int4:cidr inet,int4:inet
sha224  bytea:bytea
sha256  bytea:bytea
sha384  bytea:bytea
sha512  bytea:bytea
sign  numeric:numeric float8:float8
similar_escape  text,text:text
similar_to_escape  text:text text,text:text
split_part  text,text,int4:text
sqrt  numeric:numeric float8:float8
starts_with  text,text:bool
statement_timestamp  -:timestamptz
string_to_array  text,text:_text text,text,text:_text
strpos  text,text:int4
substr  bytea,int4:bytea bytea,int4,int4:bytea text,int4:text text,int4,int4:text
substring  bit,int4:bit bit,int4,int4:bit bytea,int4:bytea bytea,int4,int4:bytea text,int4:text
    text,int4,int4:text text,text:text text,text,text:text
text  bpchar:text xml:text bool:text char:text name:text inet:text
timezone  timestamp:timestamptz timestamptz:timestamp interval,timestamp:timestamptz
    interval,timestamptz:timestamp interval,timetz:timetz timetz:timetz text,timestamp:timestamptz
    text,timestamptz:timestamp text,timetz:timetz
to_char  timestamp,text:text timestamptz,text:text interval,text:text numeric,text:text int8,text:text
    int4,text:text float4,text:text float8,text:text
to_date  text,text:date
to_hex  int8:text int4:text
to_json  anyelement:json
to_jsonb  anyelement:jsonb
to_number  text,text:numeric
to_timestamp  text,text:timestamptz float8:timestamptz
transaction_timestamp  -:timestamptz
translate  text,text,text:text
trim_scale  numeric:numeric
trunc  numeric:numeric numeric,int4:numeric float8:float8 macaddr8:macaddr8 macaddr:macaddr
unicode_version  -:text
unistr  text:text
upper  text:text anyrange:anyelement anymultirange:anyelement
width_bucket  numeric,numeric,numeric,int4:int4 anycompatible,anycompatiblearray:int4
    float8,float8,float8,int4:int4
"""


@dataclass(frozen=True, slots=True)
class Signature:
    """An operator or function as pg_operator and pg_proc have it, by type names."""

    args: tuple[str, ...]
    result: str
    variadic: bool = False
    defaults: int = 0
    #: The arguments as declared, where a variadic one has been given its number.
    declared: str = ""


OIDS: dict[str, int] = {}
NAMES: dict[int, str] = {}
CATEGORY: dict[str, str] = {}
PREFERRED: set[str] = set()
#: (source, target) → context of the cast.
CAST_CONTEXT: dict[tuple[str, str], str] = {}


def _read_types() -> None:
    for line in TYPES.strip().splitlines():
        oid, name, array, category, *preferred = line.split()
        OIDS[name], NAMES[int(oid)], CATEGORY[name] = int(oid), name, category
        if preferred:
            PREFERRED.add(name)
        if array != "0":
            OIDS[f"_{name}"], NAMES[int(array)], CATEGORY[f"_{name}"] = int(array), f"_{name}", "A"


def _read_casts() -> None:
    for source, *targets in _entries(CASTS):
        for target in targets:
            name, _, context = target.partition(":")
            CAST_CONTEXT[source, name] = context


def _entries(table: str) -> list[list[str]]:
    entries: list[list[str]] = []
    for line in table.strip("\n").splitlines():
        words = line.split()
        if line.startswith(" "):
            entries[-1].extend(words)
        else:
            entries.append(words)
    return entries


def _read_signatures(table: str) -> dict[str, tuple[Signature, ...]]:
    found = {}
    for name, *entries in _entries(table):
        signatures = []
        for entry in entries:
            args, _, result = entry.rpartition(":")
            if "@" in result:
                continue
            types = () if args == "-" else tuple(args.split(","))
            signatures.append(Signature(types, result.rstrip("~="), "~" in result, result.count("=")))
        found[name] = tuple(signatures)
    return found


_read_types()
_read_casts()
OPERATOR_SIGNATURES = _read_signatures(OPERATORS)
FUNCTION_SIGNATURES = _read_signatures(FUNCTIONS)
